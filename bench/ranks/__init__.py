"""A job of many ranks."""
