"""Chapter 10 of the course (docs/course/)."""
