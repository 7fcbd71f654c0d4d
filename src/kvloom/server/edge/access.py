"""Which endpoints require which key.

    /health, /version, /openapi.json    anyone
    /ui, /ui/...                        anyone: the page is the same for all, and asks for a key itself
    /metrics, /cache                    who has a key; anyone with ``open_metrics``
    POST /cache/reset (/reset_prefix_cache), /cache/check     who has an admin key
    /cache/contexts, .../save, .../restore  who has an admin key
    /cache/contexts/{id}, /cache/requests/{id}  whose the request is, and admins
    everything else                     who has a key

A key is sent as ``Authorization: Bearer KEY`` or as ``x-api-key: KEY``.
If no keys are configured, none is required; on a loopback address every client is then an admin, elsewhere none is.
"""

from __future__ import annotations

import ipaddress

from starlette.types import Scope

from kvloom.config import ServerConfig
from kvloom.engine.cache_params import Matching
from kvloom.server.edge.caller import Caller
from kvloom.server.edge.keys import Key, Keyring, Role

_OPEN = frozenset({"/health", "/version", "/openapi.json", "/ui"})
_PAGE = "/ui/"
_MAX_SESSION = 512
_FIGURES = frozenset({"/metrics", "/cache"})


class Access:
    """The access rules of one server."""

    def __init__(self, keyring: Keyring, config: ServerConfig) -> None:
        self.keyring = keyring
        self._open = _OPEN | _FIGURES if config.open_metrics else _OPEN
        self._anybody: Role = "admin" if is_loopback(config.host) else "user"
        self._together = config.share_prefixes
        self._matching: Matching = "pages" if config.share_prefixes else "tokens"

    def caller(self, scope: Scope) -> Caller | None:
        """The caller; None when a required key is missing."""
        if not self.keyring.keys:
            peer = _peer(scope)
            return Caller(
                peer,
                self._anybody,
                None,
                self._matching,
                self.keyring.compression,
                limits=self.keyring.limits,
                limited_as=peer.rpartition(":")[0],
                traceparent=_trace(scope),
                session=_session(scope),
            )
        key = self.keyring.find(_header(scope, b"authorization")) or self.keyring.secret(_header(scope, b"x-api-key"))
        if key is not None:
            return self._of(key, scope)
        path: str = scope["path"]
        return Caller(_peer(scope), "user") if path in self._open or path.startswith(_PAGE) else None

    def _of(self, key: Key, scope: Scope) -> Caller:
        apart = None if self._together else key
        return Caller(
            key.name,
            key.role,
            apart,
            self._matching,
            key.compression,
            owner=key.name,
            limits=key.limits,
            limited_as=key.name,
            traceparent=_trace(scope),
            session=_session(scope),
        )


def is_loopback(host: str) -> bool:
    """Whether ``host`` is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")


def _trace(scope: Scope) -> str:
    return _header(scope, b"traceparent").decode("latin-1")


def _session(scope: Scope) -> str:
    return _header(scope, b"x-session-id").decode("latin-1")[:_MAX_SESSION]


def _peer(scope: Scope) -> str:
    peer = scope.get("client")
    return f"{peer[0]}:{peer[1]}" if peer else ""
