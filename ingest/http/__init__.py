"""HTTP below the routes: the socket, TLS, connections, bodies, one answer for each request."""
