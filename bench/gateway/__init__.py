"""What is measured of the gateway."""
