"""All of Stepclock in one process, with SQLite as log and as store."""
