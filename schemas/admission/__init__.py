"""What of a request body is admitted, with fast paths for lines that are certainly good."""
