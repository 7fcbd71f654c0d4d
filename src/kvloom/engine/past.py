"""Contexts of requests that are over: what is needed to say, later on, how much of their KV is still there, and where.

No tokens and no text: names of some of their pages.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from kvloom.engine.kv.names import PageNames
from kvloom.engine.outputs import CompressedContext
from kvloom.engine.request import Request
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.keys import page_key
from kvloom.segment import PageKey

MOST_PAGES = 64
"""Of a context, whose names are remembered: a few kilobytes."""

_MOST_CONTEXTS = 256


@dataclass(frozen=True, slots=True)
class PastContext:
    """``pages``: (position, name) of some pages at equal distances, the last of which may be unfinished. ``named``:
    from here on nothing has a name, so that nobody can find it. ``left``: the name of what a compression left of all
    before that.
    """

    prompt: int
    tokens: int
    pages: tuple[tuple[int, PageKey], ...]
    named: int
    left: PageKey | None = None
    compressed: CompressedContext | None = None


@dataclass(slots=True)
class PastContexts:
    """The last ones, by request id."""

    _by_id: OrderedDict[str, PastContext] = field(default_factory=OrderedDict)

    def add(self, request: Request) -> None:
        """A request is over: its first continuation has been released."""
        sequence = request.sequences[0]
        kv, names = sequence.kv, sequence.kv.names
        self._by_id[request.id] = PastContext(
            prompt=len(request.prompt_token_ids),
            tokens=sequence.length,
            pages=_sampled(names),
            named=names.stop,
            left=kv.left_key if request.metrics.compressed is not None else None,
            compressed=request.metrics.compressed,
        )
        self._by_id.move_to_end(request.id)
        if len(self._by_id) > _MOST_CONTEXTS:
            self._by_id.popitem(last=False)

    def get(self, request_id: str) -> PastContext | None:
        return self._by_id.get(request_id)


def _sampled(names: PageNames) -> tuple[tuple[int, PageKey], ...]:
    count = len(names.keys)
    some = [n * count // MOST_PAGES for n in range(MOST_PAGES)] if count > MOST_PAGES else range(count)
    pages = [(index * PAGE_TOKENS, names.keys[index]) for index in some]
    stop = min(names.stop, len(names.tokens) - 1)  # the last token is never computed
    if count == stop // PAGE_TOKENS and stop % PAGE_TOKENS:
        start = count * PAGE_TOKENS
        pages.append((start, page_key(names.parent_key(count), names.tokens[start:stop])))
    return tuple(pages)
