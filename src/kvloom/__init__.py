"""kvloom: KV-cache memory, managed span by span, by policy."""
