"""Evaluation of a model: bits per byte, CORE, and the exams (benchmarks) of `tasks/`."""
