"""Exercises, broken versions and checks of the course in docs/course/."""
import nanochat  # noqa: F401  # its settings must be there before a chapter imports PyTorch
