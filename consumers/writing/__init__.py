"""From a batch to points in every view of the store."""
