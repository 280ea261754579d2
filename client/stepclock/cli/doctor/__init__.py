"""`stepclock doctor`: one point on its whole way, each hop timed."""
