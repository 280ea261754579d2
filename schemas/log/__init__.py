"""The log between gateway and worker: its protocols, and what its records hold."""
