"""HTTP below the routes: the socket, TLS, connections, bodies, what they may cost."""
