"""Tool calls: how a model's template writes them, grammars that make it write them, and readers that find them."""
