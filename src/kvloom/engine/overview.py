"""What an engine is doing, for people who look: how memory is filled, and where the KV of which context lies.

Taken on the engine's thread between two steps, in a time that does not depend on how much is cached.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from kvloom.engine.kv import SequenceKv
from kvloom.engine.outputs import CompressedContext
from kvloom.engine.past import PastContext
from kvloom.engine.request import Request, Status
from kvloom.memory.occupancy import Occupancy
from kvloom.memory.tier.base import Place
from kvloom.segment import PageKey, SpanSet, Why

if TYPE_CHECKING:
    from kvloom.engine.engine import Engine

_MOST_SLABS = 384
_MOST_STRETCHES = 96


class State(StrEnum):
    """Of the KV of a stretch of positions."""

    HOT = "hot"  # in RAM, exactly as it was computed
    COMPRESSED = "compressed"  # in RAM, only what a method has left of it, or in fewer bits
    ALONE = "alone"  # in RAM, as it was computed for a document alone
    TIER = "tier"  # in a colder tier, or on its way from there
    COMPUTING = "computing"  # the next rows
    MISSING = "missing"  # has to be computed, or is not there any more


@dataclass(frozen=True, slots=True)
class Stretch:
    """``origin``: the tier in which a request that runs has found it, or in which it lies now; of what is missing, the
    reason; empty: none of these.
    """

    start: int
    stop: int
    state: State
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Exact:
    """A compressed context beside what it was: ``bytes`` of its pages, and entries of each KV head, by layer."""

    bytes: int
    entries: dict[int, int]


@dataclass(frozen=True, slots=True)
class ContextView:
    """``held_bytes``: of the pages that its first continuation holds now. ``length``: tokens of prompt and answer."""

    request_id: str
    status: str
    prompt: int
    length: int
    held_bytes: int
    stretches: tuple[Stretch, ...]
    compressed: CompressedContext | None = None
    exact: Exact | None = None


@dataclass(frozen=True, slots=True)
class Overview:
    memory: Occupancy
    contexts: tuple[ContextView, ...]


def overview(engine: Engine, request_ids: Sequence[str]) -> Overview:
    """Of these requests, those that are known: running, waiting, or over not too long ago."""
    return Overview(engine.ledger.occupancy(_MOST_SLABS), tuple(context_views(engine, request_ids)))


def context_views(engine: Engine, request_ids: Iterable[str]) -> Iterator[ContextView]:
    """Of these requests, those that are known."""
    for request_id in request_ids:
        request, past = engine.requests.get(request_id), engine.past.get(request_id)
        if request is not None and request.sequences:
            yield _live(engine, request)
        elif past is not None:
            yield _over(engine, request_id, past)


# -- requests that are not over ----------------------------------------------------------------------------------------


def _live(engine: Engine, request: Request) -> ContextView:
    sequence = request.sequences[0]
    running, compressed = sequence.status is Status.RUNNING, request.metrics.compressed
    return ContextView(
        request.id,
        sequence.status.value,
        len(request.prompt_token_ids),
        sequence.length,
        sequence.kv.held_bytes,
        _coarse(_stretches(request, sequence.kv, engine.config.scheduler.step_tokens if running else 0)),
        compressed,
        _exact(engine, compressed),
    )


def _stretches(request: Request, kv: SequenceKv, next_rows: int) -> list[Stretch]:
    """``next_rows``: how many may be computed in the next step."""
    lacking = kv.missing | kv.pending
    resident = SpanSet.full(len(kv.tokens)) - lacking
    computing = kv.ready(next_rows) if next_rows else SpanSet()
    gap = kv.tables[0].gap if kv.fused else None
    alone = SpanSet() if gap is None else resident & SpanSet((gap,))
    lists = SpanSet() if kv.fused else resident & SpanSet.full(kv.replaced)
    resident = resident - alone - lists
    found = [Stretch(span.start, span.stop, State.ALONE) for span in alone]
    found += [Stretch(span.start, span.stop, State.COMPRESSED) for span in lists]
    found += [Stretch(span.start, span.stop, State.TIER, "loading") for span in kv.pending]
    found += [Stretch(span.start, span.stop, State.COMPUTING) for span in computing]
    found += [Stretch(span.start, span.stop, State.MISSING, "waiting") for span in kv.missing - computing]
    for each in request.metrics.reused:
        here = resident & SpanSet((each.span,))
        state = State.COMPRESSED if each.lossy else State.HOT
        found += [Stretch(span.start, span.stop, state, each.tier) for span in here]
        resident = resident - here
    found += [Stretch(span.start, span.stop, State.HOT) for span in resident]
    told = [_without_repeats(each, kv) for each in found]
    return sorted((each for each in told if each is not None), key=lambda each: each.start)


def _without_repeats(stretch: Stretch, kv: SequenceKv) -> Stretch | None:
    """Where it is in prompt and answer: what is repeated for a method to see lies between the boundary and the rest."""
    if not kv.repeated:
        return stretch
    start, stop = (
        at if at <= kv.boundary else max(kv.boundary, at - kv.repeated) for at in (stretch.start, stretch.stop)
    )
    return Stretch(start, stop, stretch.state, stretch.origin) if start < stop else None


# -- requests that are over --------------------------------------------------------------------------------------------


def _over(engine: Engine, request_id: str, past: PastContext) -> ContextView:
    stretches = list(_still_there(engine, past))
    if past.left is not None and past.left in engine.results:
        after = [each for each in stretches if each.stop > past.named]
        stretches = [Stretch(0, past.named, State.COMPRESSED), *after]
    return ContextView(
        request_id,
        "over",
        past.prompt,
        past.tokens,
        0,
        _coarse(stretches),
        past.compressed,
        _exact(engine, past.compressed),
    )


def _still_there(engine: Engine, past: PastContext) -> Iterator[Stretch]:
    named = min(past.named, past.tokens)
    starts = [position for position, _ in past.pages] + [named]
    if starts[0]:
        yield Stretch(0, starts[0], State.MISSING, Why.NEW)
    for (start, key), stop in zip(past.pages, starts[1:], strict=True):
        if start < stop:
            yield Stretch(start, stop, *_where(engine, key))
    if named < past.tokens:
        yield Stretch(named, past.tokens, State.MISSING, Why.COMPRESSED)


def _where(engine: Engine, key: PageKey) -> tuple[State, str]:
    """Of a page that had this name."""
    if key in engine.ledger.index.entries:
        return State.HOT, ""
    place = Place(key, 0)
    tier = engine.tiers.find(place)
    if tier is not None:
        return State.TIER, tier.name
    lossy = engine.tiers.find_lossy(place)
    if lossy is not None:
        return State.TIER, lossy[0].name
    return State.MISSING, engine.ledger.index.gone(key) or Why.NEW


# -- both --------------------------------------------------------------------------------------------------------------


def _exact(engine: Engine, compressed: CompressedContext | None) -> Exact | None:
    if compressed is None:
        return None
    layout, tokens = engine.layout, compressed.tokens
    return Exact(layout.dense_bytes(tokens), {layer: count for layer, (count, _) in layout.entries(tokens).items()})


def _coarse(stretches: Sequence[Stretch]) -> tuple[Stretch, ...]:
    """Neighbours in one state joined; where there are too many of them, what is at so many positions."""
    joined = _joined(stretches)
    if len(joined) <= _MOST_STRETCHES:
        return tuple(joined)
    length, some, at = joined[-1].stop, list[Stretch](), 0
    for n in range(_MOST_STRETCHES):
        start, stop = (m * length // _MOST_STRETCHES for m in (n, n + 1))
        while joined[at].stop <= start:
            at += 1
        some.append(Stretch(start, stop, joined[at].state, joined[at].origin))
    return tuple(_joined(some))


def _joined(stretches: Iterable[Stretch]) -> list[Stretch]:
    joined: list[Stretch] = []
    for each in stretches:
        last = joined[-1] if joined else None
        if last is not None and (last.stop, last.state, last.origin) == (each.start, each.state, each.origin):
            joined[-1] = Stretch(last.start, each.stop, last.state, last.origin)
        else:
            joined.append(each)
    return joined
