"""A small closed world for small models: its stories, lessons and exams, made by code from a seed."""
