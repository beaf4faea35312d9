"""PPO-Lagrangian training: prepared profiles, Lagrange multipliers and checkpoints."""
