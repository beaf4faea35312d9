"""PPO-Lagrangian training: the prepared profile, the multipliers, checkpoints."""
