"""Who sends a request, and with whom KV is shared."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from starlette.requests import Request

from kvloom.engine.cache_params import CacheParams, Matching
from kvloom.policy.compression import Compression
from kvloom.server.edge.keys import Key, Role
from kvloom.server.edge.limits import NO_LIMITS, Limits
from kvloom.server.errors import AdminOnly


@dataclass(frozen=True, slots=True)
class Caller:
    """``client``: the unit of fair queueing. ``apart``: the key within which KV is shared, None when it is shared with
    all. ``matching``: granularity of prefix matching. ``compression``: what is done to contexts unless a request says.
    ``owner``: whose stored answers these are; without keys, everybody's. ``limits``: of the requests of all who are
    ``limited_as`` this together. ``traceparent``: the header of that name, which names the trace that this belongs to.
    ``session``: the session that the header ``x-session-id`` names.
    """

    client: str
    role: Role
    apart: Key | None = None
    matching: Matching = "tokens"
    compression: Compression | None = None
    owner: str = ""
    limits: Limits = NO_LIMITS
    limited_as: str = ""
    traceparent: str = ""
    session: str = ""

    def own(self, cache: CacheParams) -> CacheParams:
        """What was asked, with the salt that this caller's KV really has, and matched as finely as they may."""
        salt = cache.salt if self.apart is None else self.apart.salt(cache.salt)
        return dataclasses.replace(cache, salt=salt, match=self.matching, session=self._session(cache))

    def _session(self, cache: CacheParams) -> str | None:
        """Of this caller's owner: nobody's requests belong to another's session."""
        name = cache.session or self.session
        return f"{self.owner} {name}" if name and self.owner else name or None

    def check_admin(self) -> None:
        """Raises AdminOnly."""
        if self.role != "admin":
            raise AdminOnly("this needs an admin key", hint="set KVLOOM_ADMIN_KEY, or mark a key in the keys file")


def caller_of(request: Request) -> Caller:
    """The caller that ``middleware.Edge`` identified."""
    caller: Caller = request.state.caller
    return caller
