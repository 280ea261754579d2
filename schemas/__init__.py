"""Pure definitions shared by every part: no I/O, no clock, no third-party client."""
