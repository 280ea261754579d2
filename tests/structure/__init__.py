"""What a move of files must not change, shown from two git revisions without a checkout."""
