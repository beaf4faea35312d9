"""Those who choose: the PPO agent, the baselines, the policy bundle and its runtime."""
