"""The ways in: from a request's body to lines that are admitted."""
