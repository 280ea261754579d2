"""From a record of the log to a block that can be stored."""
