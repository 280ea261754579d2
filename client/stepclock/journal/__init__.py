"""Numbered requests: which lines each one holds, and what became of it."""
