"""Quality evaluation over long contexts."""
