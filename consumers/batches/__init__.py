"""From blocks to batches: what waits, how large a batch is, which offsets are settled."""
