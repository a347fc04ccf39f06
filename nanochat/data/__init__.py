"""From documents to batches: shards on disk, packing into rows, a loader that resumes exactly."""
