"""`stepclock-server lag`: how far the consumers are behind."""
