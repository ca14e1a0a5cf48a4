"""HTTP for every service: connections, heads, bodies, and the headers that change the meaning of a request."""
