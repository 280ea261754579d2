"""The store of one machine, in a SQLite file."""
