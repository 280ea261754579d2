"""`stepclock-server ledger`: what was delivered against what is stored."""
