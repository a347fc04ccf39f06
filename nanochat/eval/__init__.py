"""What a model is worth, in numbers: bits per byte, CORE, and the exams of `tasks/`."""
