"""The loop every stage runs, its losses, checkpoints, and rollouts for RL."""
