"""Sessions: the KV of one text, out of pages and into pages, bit by bit. On the engine's thread, between two steps.

What leaves is what RAM has of a text that begins somewhere, as the arena has it. What comes in goes to ordinary pages
under the same root, whose key covers weights, page formats and salt, so that it is found exactly by whom it was found
before. A session of anything else is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kvloom.arrays import Bytes
from kvloom.engine.engine import Engine
from kvloom.errors import RequestError, SessionRefused
from kvloom.memory.arena import page_stride
from kvloom.memory.cells import page_cells
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.index import Entry, content_hash
from kvloom.memory.keys import page_key
from kvloom.memory.ledger import Identity
from kvloom.memory.session_file import Session
from kvloom.segment import PageId, PageKey, Span, SpanSet

_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class StoredContext:
    """A text of which RAM has pages: as far as it is known. ``id``: names its last page. ``root``: key of its empty
    prefix, which covers weights, formats and salt. ``segments``: by layer group, the spans that are there.
    """

    id: str
    root: PageKey
    tokens: tuple[int, ...]
    segments: tuple[SpanSet, ...]
    bytes: int


def contexts(engine: Engine) -> Iterator[StoredContext]:
    """Every text that ends somewhere in RAM, the longest first. One that begins all of another is part of it."""
    found = [_context(engine, chain) for chain in _chains(engine)]
    yield from sorted(found, key=lambda each: (-len(each.tokens), each.id))


def context(engine: Engine, id: str) -> StoredContext | None:
    """None when there is none, or no longer."""
    chain = _find(engine, id)
    return None if chain is None else _context(engine, chain)


def take_out(engine: Engine, id: str) -> Session:
    """Copy what RAM has of a context. Raises RequestError when there is none."""
    chain, memory = _chain(engine, id), engine.ledger.arena.memory
    pages = tuple(
        {
            n: page_cells(memory, fmt, page).reshape(-1).copy()
            for n, entry in enumerate(chain)
            if (page := entry.pages[g]) is not None
        }
        for g, fmt in enumerate(engine.layout.formats)
    )
    tokens = tuple(token for entry in chain for token in entry.tokens)
    return Session(engine.model.weights_id, engine.layout.identity, chain[0].parent, tokens, pages)


def put_in(engine: Engine, session: Session) -> int:
    """Put a session into pages that nobody holds. Returns its tokens, of which the engine has as much KV as it had.

    Raises SessionRefused when it is of anything else than this engine, RequestError when there is no room.
    """
    check(engine, session)
    ledger, owner, held = engine.ledger, f"restore/{session.root.hex()[:16]}", list[PageId]()
    try:
        for group, fmt in enumerate(engine.layout.formats):
            for identity, data in _identities(session, group):
                page = ledger.allocate(fmt, owner)
                if page is None:
                    raise RequestError(
                        f"no room for a session of {len(session.tokens)} tokens in {ledger.arena.budget_bytes} bytes "
                        "of KV memory, beside what requests hold",
                        hint="raise kv_bytes, or try again later",
                    )
                held.append(page)
                page_cells(ledger.arena.memory, fmt, page).reshape(-1)[:] = data
                ledger.publish(page, identity)
    finally:
        ledger.release(held, owner)
    engine.wake()
    return len(session.tokens)


def check(engine: Engine, session: Session) -> None:
    """Raises SessionRefused."""
    if session.weights != engine.model.weights_id:
        raise SessionRefused(f"it is of model {session.weights[:12]}, this is {engine.model.weights_id[:12]}")
    if session.formats != engine.layout.identity:
        raise SessionRefused(f"its pages are in {session.formats}, those here in {engine.layout.identity}")
    sizes = [fmt.page_bytes for fmt in engine.layout.formats]
    if len(session.pages) != len(sizes) or not session.tokens:
        raise SessionRefused(f"it has {len(session.tokens)} tokens in {len(session.pages)} layer groups")
    count = -(-len(session.tokens) // PAGE_TOKENS)
    for size, pages in zip(sizes, session.pages, strict=True):
        if any(not 0 <= n < count or page.nbytes != size for n, page in pages.items()):
            raise SessionRefused("its pages are not those of its tokens")
    if min(session.tokens) < 0 or max(session.tokens) >= engine.model.vocab_size:
        raise SessionRefused("not all of its tokens are in the vocabulary")


# -- inside ------------------------------------------------------------------------------------------------------------


def _identities(session: Session, group: int) -> Iterator[tuple[Identity, Bytes]]:
    """What each page of a layer group is published as, and its bytes."""
    parent, content = session.root, 0
    for n, start in enumerate(range(0, len(session.tokens), PAGE_TOKENS)):
        tokens = session.tokens[start : start + PAGE_TOKENS]
        content, key = content_hash(content, tokens), page_key(parent, tokens)
        if n in session.pages[group]:
            yield Identity(parent, tokens, start, content, group, key=key), session.pages[group][n]
        parent = key


def _chains(engine: Engine) -> Iterator[tuple[Entry, ...]]:
    """All texts, but for passages that were computed alone."""
    index = engine.ledger.index
    for root in dict.fromkeys(entry.parent for entry in index.entries.values() if entry.position == 0):
        for chain in index.paths(root):
            pages = [page for page in chain[0].pages if page is not None]
            if not any("chunk" in engine.ledger.hints_of(page) for page in pages):
                yield chain


def _chain(engine: Engine, id: str) -> tuple[Entry, ...]:
    found = _find(engine, id)
    if found is None:
        raise RequestError(f"there is no context `{id}`, or no longer", hint="GET /cache/contexts", param="context")
    return found


def _find(engine: Engine, id: str) -> tuple[Entry, ...] | None:
    return next((chain for chain in _chains(engine) if _id(chain) == id), None)


def _context(engine: Engine, chain: Sequence[Entry]) -> StoredContext:
    formats = engine.layout.formats
    there = [[n for n, entry in enumerate(chain) if entry.pages[group] is not None] for group in range(len(formats))]
    return StoredContext(
        id=_id(chain),
        root=chain[0].parent,
        tokens=tuple(token for entry in chain for token in entry.tokens),
        segments=tuple(_spans(chain, pages) for pages in there),
        bytes=sum(page_stride(fmt) * len(pages) for fmt, pages in zip(formats, there, strict=True)),
    )


def _spans(chain: Sequence[Entry], pages: Sequence[int]) -> SpanSet:
    return SpanSet.of([Span(chain[n].position, chain[n].position + len(chain[n].tokens)) for n in pages])


def _id(chain: Sequence[Entry]) -> str:
    return chain[-1].key[:_ID_BYTES].hex()
