"""What compressions have left of contexts, kept for others who ask the same of the same context.

The ledger knows the pages: extents that are published under names which no exact look-up has, and dropped like
anything else that is cached. Here is what has to be known of them to read them as lists.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

from kvloom.attend.lists import MoreLists
from kvloom.engine.kv.sequence import SequenceKv
from kvloom.errors import InternalError
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.ledger import Extent, Ledger
from kvloom.policy.actions import Drop
from kvloom.policy.events import Block, Heedless
from kvloom.segment import PageId, PageKey, Why


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What is left of a context: by layer group, ``lists`` and the extents in which their pages lie.

    ``tokens``: the context's. ``kept``: how many entries, by layer and KV head.
    """

    tokens: array[int]
    lists: tuple[tuple[MoreLists, ...], ...]
    extents: tuple[tuple[Extent, ...], ...]
    kept: Mapping[int, tuple[int, ...]]

    @property
    def pages(self) -> frozenset[PageId]:
        """The first ones of its extents."""
        return frozenset(extent.page for of_group in self.extents for extent in of_group)


@dataclass(slots=True, eq=False)
class Results(Heedless):
    """A listener of page events: a result is there as long as all of its extents are.

    When one has been dropped, the others are ``_useless`` and ``tidy`` drops them.
    """

    ledger: Ledger
    _by_key: dict[PageKey, Result] = field(default_factory=dict, init=False)
    _keys: dict[PageId, PageKey] = field(default_factory=dict, init=False)
    _useless: dict[PageId, None] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: PageKey) -> bool:
        """Whether there is a result of this name. Whoever uses it has to ask ``find``, which compares the tokens."""
        return key in self._by_key

    def find(self, kv: SequenceKv) -> Result | None:
        """For a sequence that holds nothing yet. Who matches in pages is shown none that ends inside of one."""
        key = kv.left_key
        if key is None or not self._may_be_seen(kv):
            return None
        result = self._by_key.get(key)
        return result if result is not None and result.tokens == _context(kv) else None

    def coming_from(self, kv: SequenceKv) -> str | None:
        """The other sequence that is computing what this one would find."""
        key = kv.left_key
        owner = self.ledger.index.coming_from(key) if key is not None and self._may_be_seen(kv) else None
        return None if owner == kv.owner else owner

    def keep(self, kv: SequenceKv, kept: Mapping[int, tuple[int, ...]]) -> None:
        """What has been left of a sequence's context can be found from now on, unless the same is there already."""
        self.tidy()
        if kv.publish_lists():
            assert kv.left_key is not None
            result = self._by_key[kv.left_key] = Result(_context(kv), kv.lists, kv.extents, kept)
            self._keys |= dict.fromkeys(result.pages, kv.left_key)

    def tidy(self) -> None:
        """Drop what is of no use alone."""
        for page in list(self._useless):
            if not self.ledger.holders(page):
                self.ledger.apply(Drop(page))

    def check(self) -> None:
        """Audit: all that can be found is published. Raises InternalError."""
        index = self.ledger.index
        for key, result in self._by_key.items():
            if lost := {page for page in result.pages if page not in index or self._keys.get(page) != key}:
                raise InternalError(f"a result has pages {set(result.pages)}, of which {lost} cannot be found")
        if (known := len(self._keys)) != sum(len(result.pages) for result in self._by_key.values()):
            raise InternalError(f"{known} pages are said to be those of {len(self._by_key)} results")
        if any(page not in index for page in self._useless):
            raise InternalError("what is left of a result has been dropped, and is to be dropped again")

    # -- events ----------------------------------------------------------------------------------------------------

    def gone(self, block: Block, why: Why, now: float) -> None:
        self._useless.pop(block.page, None)
        if (key := self._keys.get(block.page)) is not None:
            pages = self._by_key.pop(key).pages
            for page in pages:
                del self._keys[page]
            self._useless |= dict.fromkeys(sorted(pages - {block.page}))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _may_be_seen(self, kv: SequenceKv) -> bool:
        return kv.cache.match == "tokens" or kv.boundary % PAGE_TOKENS == 0


def _context(kv: SequenceKv) -> array[int]:
    return array("i", kv.tokens[: kv.boundary])
