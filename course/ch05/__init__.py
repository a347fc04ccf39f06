"""Chapter 5 of the course (docs/course/)."""
