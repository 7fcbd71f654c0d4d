"""Who sends a request, and what they share with others."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from starlette.requests import Request

from kvloom.engine.params import SamplingParams
from kvloom.engine.request import Matching
from kvloom.server.errors import AdminOnly
from kvloom.server.keys import Key, Role


@dataclass(frozen=True, slots=True)
class Caller:
    """``client``: in whose name requests wait for their turn. ``apart``: the key within which KV is shared, None when
    it is shared with all. ``matching``: how finely."""

    client: str
    role: Role
    apart: Key | None = None
    matching: Matching = "tokens"

    def own(self, params: SamplingParams) -> SamplingParams:
        """The parameters, with the salt that this caller's KV really has."""
        if self.apart is None:
            return params
        return dataclasses.replace(params, cache_salt=self.apart.salt(params.cache_salt))

    def check_admin(self) -> None:
        """Raises AdminOnly."""
        if self.role != "admin":
            raise AdminOnly("this needs an admin key", hint="set KVLOOM_ADMIN_KEY, or mark a key in the keys file")


def caller_of(request: Request) -> Caller:
    """As ``edge.Edge`` found it."""
    caller: Caller = request.state.caller
    return caller
