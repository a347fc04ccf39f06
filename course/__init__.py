"""Exercises, broken versions and checks of the course in docs/course/."""
