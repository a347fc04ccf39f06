"""Chapter 6 of the course (docs/course/)."""
