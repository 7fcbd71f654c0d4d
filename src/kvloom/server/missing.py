"""The reply for unknown paths: names the path, and a similar one that exists."""

from __future__ import annotations

from kvloom.errors import RequestError

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/v1/responses/{id}",
    "/v1/responses/{id}/input_items",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
    "/v1/models",
    "/v1/models/{name}",
    "/tokenize",
    "/detokenize",
    "/tokenizer_info",
    "/openapi.json",
    "/health",
    "/version",
    "/metrics",
    "/cache",
    "/cache/reset",
    "/reset_prefix_cache",
    "/cache/check",
    "/ui",
    "/window",
    "/window/about",
    "/cache/contexts",
    "/cache/contexts/{id}",
    "/cache/requests/{id}",
    "/cache/save",
    "/cache/restore",
)

_PREFIXES = {"v1", "api", "openai"}
_MAX_SHOWN = 200


def not_found(path: str) -> RequestError:
    meant = {_bare(known): known for known in PATHS}.get(_bare(path))
    hint = f"did you mean `{meant}`?" if meant else "`/openapi.json` lists all paths"
    return RequestError(f"`{_shown(path)}` is not supported by this server", hint=hint)


def known_path(path: str) -> str | None:
    """The one of ``PATHS`` that this is, with names in braces for what varies."""
    parts = path.rstrip("/").split("/")
    return next((known for known in PATHS if _matches(known.split("/"), parts)), None)


def _matches(known: list[str], parts: list[str]) -> bool:
    same = (a == b or (a.startswith("{") and b) for a, b in zip(known, parts, strict=False))
    return len(known) == len(parts) and all(same)


def not_allowed(method: str, path: str, allowed: str) -> RequestError:
    return RequestError(f"`{_shown(method)}` is not allowed for `{_shown(path)}`, only {allowed or 'other methods'}")


def _bare(path: str) -> tuple[str, ...]:
    """The path without common variations: a version, empty parts, capitals."""
    parts = [part for part in path.lower().split("/") if part]
    while parts and parts[0] in _PREFIXES:
        del parts[0]
    return tuple(parts)


def _shown(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
