"""From what a job logs to lines: the buffer, the encoder, the thread that empties the buffer."""
