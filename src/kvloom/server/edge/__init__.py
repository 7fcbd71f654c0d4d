"""The HTTP edge: connections, limits, bodies, keys, and the outermost middleware."""
