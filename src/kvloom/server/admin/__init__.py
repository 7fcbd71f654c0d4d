"""For whoever runs the server: health, metrics, the cache."""
