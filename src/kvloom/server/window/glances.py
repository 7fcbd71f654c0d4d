"""What viewers are told of the engine, taken so seldom that the engine does not notice how many there are."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from kvloom.engine.overview import Overview
from kvloom.server.admin.recent import Asked, Recent
from kvloom.server.edge.caller import Caller
from kvloom.server.engine_protocol import ServedEngine

_FRESH_S = 0.4
"""For so long a viewer is told the same again."""

_APART_S = 0.05
"""Between two questions to the engine, whoever asks: one takes its thread a millisecond at most."""

_MOST_CONTEXTS = 24
_MOST_VIEWERS = 64


@dataclass(frozen=True, slots=True)
class Glance:
    """``asked``: the requests that the viewer may see, the newest first; those the engine knows are in ``overview``."""

    at_s: float
    asked: tuple[Asked, ...]
    overview: Overview


@dataclass(slots=True)
class Glances:
    """Those of every viewer: of a key, or of all admins together."""

    engine: ServedEngine
    recent: Recent
    clock: Callable[[], float] = time.monotonic
    _of: OrderedDict[str | None, Glance] = field(default_factory=OrderedDict, init=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _last_s: float = field(default=0.0, init=False)

    async def of(self, caller: Caller) -> Glance:
        """What this caller may see. Raises InternalError when the engine is closed."""
        viewer = None if caller.role == "admin" else caller.owner
        async with self._turn:
            known = self._of.get(viewer)
            if known is not None and self.clock() - known.at_s < _FRESH_S:
                return known
            await asyncio.sleep(max(0.0, self._last_s + _APART_S - self.clock()))
            asked = tuple(self.recent.requests(caller, _MOST_CONTEXTS))
            overview = await self.engine.overview([each.request_id for each in asked])
            self._last_s = self.clock()
            glance = self._of[viewer] = Glance(self._last_s, asked, overview)
            self._of.move_to_end(viewer)
            if len(self._of) > _MOST_VIEWERS:
                self._of.popitem(last=False)
            return glance
