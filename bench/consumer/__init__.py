"""What is measured of the consumer."""
