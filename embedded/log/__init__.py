"""The log of one machine, in a SQLite file."""
