"""HTTP requests by path, method and class of status: the counter that vLLM's service dashboard asks for."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from kvloom.server.missing import known_path

_METHODS = {"GET", "HEAD", "POST", "DELETE", "OPTIONS"}


class HttpCounter:
    """Labels have few values, whatever clients send."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("handler", "method", "status")
        self._requests = Counter("http_requests", "HTTP requests answered", labels, registry=registry)
        for status in ("2xx", "4xx", "5xx"):
            self._requests.labels("/v1/chat/completions", "POST", status)

    def answered(self, path: str, method: str, status: int) -> None:
        told = method if method in _METHODS else "other"
        self._requests.labels(known_path(path) or "none", told, f"{status // 100}xx").inc()
