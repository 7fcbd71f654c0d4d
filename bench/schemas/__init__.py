"""JSON schemas that others wrote, from packages of the registry, as forms of answers."""
