"""Chapter 2 of the course (docs/course/)."""
