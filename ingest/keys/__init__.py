"""Who sends: API keys, the file that holds them, the key that is made at the first start."""
