"""`stepclock-server dlq`: dead letters, listed, shown, exported, replayed."""
