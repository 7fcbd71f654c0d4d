"""Responses that are kept for their callers: to be continued, read and deleted."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic_core import to_json

from kvloom.config import ServerConfig
from kvloom.server.dialect.fields import Json
from kvloom.server.errors import NothingStored

KEPT = "responses are kept for a while, unless `store` is false, and only for the key that asked"


@dataclass(frozen=True, slots=True, eq=False)
class StoredResponse:
    """``history``: all items of the conversation up to and with this answer. ``input``: those of this request."""

    document: Json
    input: list[Json]
    history: list[Json]
    size_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        size = sum(len(to_json(each)) for each in (self.document, self.input, self.history))
        object.__setattr__(self, "size_bytes", size)


@dataclass(slots=True)
class _Shelf:
    """One owner's responses, the oldest first, with the time until which each is kept."""

    kept: OrderedDict[str, tuple[float, StoredResponse]] = field(default_factory=OrderedDict)
    size_bytes: int = 0

    def drop(self, name: str) -> StoredResponse:
        _, stored = self.kept.pop(name)
        self.size_bytes -= stored.size_bytes
        return stored


class ResponseStore:
    """Every owner has as much room; the oldest go first. Nobody finds what is another's. On the event loop only."""

    def __init__(self, config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock = config, clock
        self._shelves: dict[str, _Shelf] = {}

    @property
    def keeps(self) -> bool:
        return self._config.stored_responses > 0

    def keep(self, owner: str, stored: StoredResponse) -> None:
        self._tidy()
        if not self.keeps or stored.size_bytes > self._config.stored_responses_bytes:
            return
        shelf = self._shelves.setdefault(owner, _Shelf())
        shelf.kept[stored.document["id"]] = self._clock() + self._config.stored_responses_seconds, stored
        shelf.size_bytes += stored.size_bytes
        limits = self._config
        while len(shelf.kept) > limits.stored_responses or shelf.size_bytes > limits.stored_responses_bytes:
            shelf.drop(next(iter(shelf.kept)))

    def find(self, owner: str, name: str) -> StoredResponse:
        """Raises NothingStored."""
        self._tidy()
        shelf = self._shelves.get(owner)
        if shelf is None or name not in shelf.kept:
            raise NothingStored(f"Response with id '{name[:80]}' not found.", hint=KEPT)
        return shelf.kept[name][1]

    def delete(self, owner: str, name: str) -> None:
        """Raises NothingStored."""
        self.find(owner, name)
        self._shelves[owner].drop(name)

    def _tidy(self) -> None:
        """Drop what has been kept long enough. All are kept equally long: the oldest end first."""
        now = self._clock()
        for owner in list(self._shelves):
            shelf = self._shelves[owner]
            while shelf.kept and next(iter(shelf.kept.values()))[0] <= now:
                shelf.drop(next(iter(shelf.kept)))
            if not shelf.kept:
                del self._shelves[owner]
