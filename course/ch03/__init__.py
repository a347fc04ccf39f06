"""Chapter 3 of the course (docs/course/)."""
