"""The embedded default: a small closed world, its stories, lessons and exams, made by code from a seed."""
