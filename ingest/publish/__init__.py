"""From admitted lines to records that the log has acknowledged."""
