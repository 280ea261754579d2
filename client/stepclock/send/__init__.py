"""From the spool to the gateway."""
