"""The HTTP gateway: from a request to a record that the log has acknowledged."""
