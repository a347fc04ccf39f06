"""Chapter 8 of the course (docs/course/)."""
