"""The store behind the workers: its protocols, and the lines that Stepclock itself writes to it."""
