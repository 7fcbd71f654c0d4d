"""Before a request is one: connections, bodies, keys, and the net under everything."""
