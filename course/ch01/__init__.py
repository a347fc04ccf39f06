"""Chapter 1 of the course (docs/course/)."""
