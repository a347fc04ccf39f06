"""Lessons in the words of visitors: the same skills, asked as many different people would ask."""
