"""`stepclock-server provision`: buckets, tasks and topics as retention.toml says."""
