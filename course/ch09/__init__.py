"""Chapter 9 of the course (docs/course/)."""
