"""The window: a page that shows where the KV of which context lies, and what it tells the page. No tensors, no text."""
