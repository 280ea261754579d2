"""The same points in PostgreSQL."""
