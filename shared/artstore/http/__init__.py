"""HTTP as every service speaks it: connections, heads, bodies and the headers that change what a request means."""
