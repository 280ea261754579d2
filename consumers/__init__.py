"""The consumer workers: from records in the log to points in the store."""
