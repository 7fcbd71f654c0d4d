"""What methods of compression did to the contexts of answered requests, by method."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from kvloom.engine.outputs import RequestUpdate
from kvloom.policy.compression import METHODS


class MethodCounters:
    """Every method's series are there from the start."""

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        def counter(name: str, says: str) -> dict[str, Counter]:
            of_all = Counter(f"kvloom:{name}", says, ("model_name", "method"), registry=registry)
            return {method: of_all.labels(model, method) for method in METHODS}

        self._contexts = counter("compressed_contexts", "Contexts of answered requests that were compressed")
        self._tokens = counter("compressed_tokens", "Tokens of these contexts")
        self._bytes = counter("compressed_bytes", "Bytes of what was left of them")

    def observe(self, update: RequestUpdate) -> None:
        """Record a finished request."""
        left = update.metrics.compressed
        if left is not None and left.method in self._contexts:  # one made in Python may have a name of its own
            self._contexts[left.method].inc()
            self._tokens[left.method].inc(left.tokens)
            self._bytes[left.method].inc(left.bytes)
