"""Lines on disk until they are acknowledged."""
