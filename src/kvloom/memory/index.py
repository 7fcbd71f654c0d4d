"""Identity and look-up: which stored pages hold the KV of which tokens.

An entry is one page's worth of tokens after one exact prefix; it may be stored for some layer groups and not for
others. The index only looks up; the ledger decides who holds a page and when it is dropped.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kvloom.errors import InternalError
from kvloom.memory.keys import page_key
from kvloom.segment import PageId, PageKey, Why


@dataclass(slots=True, eq=False)
class Entry:
    """``tokens`` (fewer than a page's worth when it was a tail) at ``position``, after the prefix ``parent``.

    ``pages[g]`` is the page of layer group g, None when that group's is not stored. ``content`` identifies the tokens
    and their prefix regardless of salt: only ever used to explain a miss.
    """

    key: PageKey
    parent: PageKey
    tokens: tuple[int, ...]
    position: int
    content: int
    pages: list[PageId | None]


@dataclass
class Index:
    """Look-up by key with the tokens compared, never by key alone.

    ``num_groups``: layer groups of the model. ``max_ghosts``: how many dropped pages are remembered, to explain misses.
    """

    num_groups: int
    max_ghosts: int = 4096
    entries: dict[PageKey, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._children: dict[PageKey, dict[PageKey, None]] = {}
        self._by_page: dict[PageId, tuple[Entry, int]] = {}
        self._ghosts: OrderedDict[PageKey, Why] = OrderedDict()
        self._contents: Counter[int] = Counter()
        self._coming: dict[PageKey, str] = {}

    # -- look-up ---------------------------------------------------------------------------------------------------

    def find(self, key: PageKey, tokens: Sequence[int]) -> Entry | None:
        """The entry of ``key``, if its tokens are these."""
        entry = self.entries.get(key)
        return entry if entry is not None and entry.tokens == tuple(tokens) else None

    def nearest(self, parent: PageKey, tokens: Sequence[int]) -> tuple[Entry, int] | None:
        """The stored continuation of ``parent`` that shares most leading tokens, and how many (at least one)."""
        best: tuple[Entry, int] | None = None
        for key in self._children.get(parent, ()):
            shared = _common_prefix(self.entries[key].tokens, tokens)
            if shared > (best[1] if best else 0):
                best = self.entries[key], shared
        return best

    def continuations(self, parent: PageKey) -> Iterator[Entry]:
        """All that is stored right after the prefix ``parent``."""
        return (self.entries[key] for key in self._children.get(parent, ()))

    def explain(
        self, key: PageKey, parent: PageKey, tokens: Sequence[int], content: int, *, inside: bool = True
    ) -> Why:
        """Why nothing is stored under ``key``, which names ``tokens`` after ``parent``. ``inside``: look into pages.

        Another salt is checked last: ``OTHER_SALT`` only ever replaces ``NEW``, so for callers that must not know of
        other salts, mapping it back to ``NEW`` leaves every explanation correct.
        """
        if key in self._ghosts:
            return self._ghosts[key]
        if inside and self.diverges(parent, tokens):
            return Why.DIFFERS
        return Why.OTHER_SALT if self._contents[content] else Why.NEW

    def gone(self, key: PageKey) -> Why | None:
        """Why what was stored under ``key`` is not any more; None: it is, never was, or that was long ago."""
        return self._ghosts.get(key)

    def diverges(self, parent: PageKey, tokens: Sequence[int]) -> bool:
        """True when something stored after ``parent`` begins like ``tokens`` and continues differently."""
        near = self.nearest(parent, tokens)
        return near is not None and near[1] < min(len(near[0].tokens), len(tokens))

    def paths(self, root: PageKey) -> Iterator[tuple[Entry, ...]]:
        """All that is stored after the prefix ``root``: every longest chain of entries, from its first on."""
        chain: list[Entry] = []
        waiting = [(key, 0) for key in reversed(self._children.get(root, {}))]
        while waiting:
            key, depth = waiting.pop()
            del chain[depth:]
            chain.append(self.entries[key])
            further = self._children.get(key, {})
            waiting += [(child, depth + 1) for child in reversed(further)]
            if not further:
                yield tuple(chain)

    # -- pages that are being computed -----------------------------------------------------------------------------

    def announce(self, key: PageKey, owner: str) -> None:
        """``owner`` is about to compute this page: others should wait for it."""
        self._coming.setdefault(key, owner)

    def withdraw(self, key: PageKey, owner: str) -> None:
        if self._coming.get(key) == owner:
            del self._coming[key]

    def coming_from(self, key: PageKey) -> str | None:
        return self._coming.get(key)

    # -- what is stored: called by the ledger ----------------------------------------------------------------------

    def add(
        self,
        parent: PageKey,
        tokens: Sequence[int],
        position: int,
        content: int,
        group: int,
        page: PageId,
        key: PageKey | None = None,
    ) -> PageId:
        """Store ``page`` for one layer group, unless it has one already. Returns the page that is stored now.

        ``key``: that of ``tokens`` after ``parent``, if the caller knows it.
        """
        key = key or page_key(parent, tokens)
        entry = self.entries.get(key)
        if entry is None:
            entry = Entry(key, parent, tuple(tokens), position, content, [None] * self.num_groups)
            self.entries[key] = entry
            self._children.setdefault(parent, {})[key] = None
            self._contents[content] += 1
            self._ghosts.pop(key, None)
        first = entry.pages[group]
        if first is not None:
            return first
        entry.pages[group] = page
        self._by_page[page] = entry, group
        return page

    def forget(self, page: PageId, why: Why) -> None:
        """``page`` is no longer stored."""
        entry, group = self._by_page.pop(page)
        entry.pages[group] = None
        self._ghosts[entry.key] = why
        self._ghosts.move_to_end(entry.key)
        if len(self._ghosts) > self.max_ghosts:
            self._ghosts.popitem(last=False)
        if any(other is not None for other in entry.pages):
            return
        del self.entries[entry.key]
        siblings = self._children[entry.parent]
        del siblings[entry.key]
        if not siblings:
            del self._children[entry.parent]
        self._contents[entry.content] -= 1
        if not self._contents[entry.content]:
            del self._contents[entry.content]

    def entry_of(self, page: PageId) -> Entry:
        """The entry that a stored page belongs to."""
        return self._by_page[page][0]

    def pages(self) -> Iterator[PageId]:
        return iter(self._by_page)

    def __contains__(self, page: PageId) -> bool:
        return page in self._by_page

    def check(self) -> None:
        """Audit the maps against each other. Raises InternalError."""
        stored = {page for entry in self.entries.values() for page in entry.pages if page is not None}
        if stored != set(self._by_page):
            raise InternalError(f"{len(stored)} pages in entries, {len(self._by_page)} in the page map")
        children = {key for siblings in self._children.values() for key in siblings}
        if children != set(self.entries) or sum(map(len, self._children.values())) != len(self.entries):
            raise InternalError("the child lists and the entries differ")
        for key, entry in self.entries.items():
            if page_key(entry.parent, entry.tokens) != key:
                raise InternalError(f"entry at position {entry.position} is filed under a key that is not its own")


def content_hash(parent_content: int, tokens: Sequence[int]) -> int:
    """Running fingerprint of a prefix, ignoring salts. Not for identity."""
    return hash((parent_content, tuple(tokens)))


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count
