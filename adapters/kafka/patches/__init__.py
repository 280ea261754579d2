"""What of kafka-python is mended: see README.md for each patch and its reason."""
