"""Instructions of hot functions and memory of a request, against budgets.toml; validation alone."""
