"""Chapter 4 of the course (docs/course/)."""
