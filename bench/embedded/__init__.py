"""What is measured of the embedded server."""
