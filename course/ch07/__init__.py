"""Chapter 7 of the course (docs/course/)."""
