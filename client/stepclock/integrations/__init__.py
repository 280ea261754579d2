"""Hooks for frameworks, each in a module that imports its framework when it is imported itself."""
