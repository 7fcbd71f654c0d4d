"""Where the KV of passages is: in RAM, page by page, or in tiers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvloom.engine.cache_params import CacheParams, KeptAs
from kvloom.engine.chunks.passage import Passage
from kvloom.engine.engine import Engine
from kvloom.engine.kv.passage import entries_in_ram, is_whole
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.index import Entry
from kvloom.memory.keys import extend_keys, page_key
from kvloom.memory.tier.base import Place
from kvloom.segment import RAM, PageKey


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """``places``: of how many tokens the KV is where, each counted where it is fastest to get. ``kept_as``: ``chunk``
    when it was computed here, or has the same bits; ``imported`` otherwise.
    """

    passage: Passage
    kept_as: KeptAs
    places: Mapping[str, int]

    @property
    def missing(self) -> int:
        """Tokens that would have to be computed."""
        return len(self.passage.tokens) - sum(self.places.values())

    @property
    def kept(self) -> bool:
        """Whether all of it is there."""
        return not self.missing

    @property
    def in_ram(self) -> bool:
        return self.places.get(RAM, 0) == len(self.passage.tokens)


def find(engine: Engine, passage: Passage, salt: str | None) -> StoredChunk | None:
    """What there is of a passage, computed or imported, whichever is more; None: nothing. On the engine's thread."""
    computed = _found(engine, passage, salt, "chunk")
    imported = _found(engine, passage, salt, "imported")
    best = computed if computed.missing <= imported.missing else imported
    return best if best.places else None


def chunks_in_ram(engine: Engine, salt: str | None, lead: int) -> list[StoredChunk]:
    """The passages of which something is in RAM: as much of them as there is, since that is all that is known.

    One that begins with all of another cannot be told from it. On the engine's thread.
    """
    kinds: tuple[KeptAs, ...] = "chunk", "imported"
    return [
        StoredChunk(passage, kept_as, {RAM: len(passage.tokens)})
        for kept_as in kinds
        for path in engine.ledger.index.paths(engine.intake.root(CacheParams(salt=salt, kept_as=kept_as)))
        if (passage := _passage(path, lead)).tokens
    ]


# -- inside ------------------------------------------------------------------------------------------------------------


def _found(engine: Engine, passage: Passage, salt: str | None, kept_as: KeptAs) -> StoredChunk:
    root = engine.intake.root(CacheParams(salt=salt, kept_as=kept_as))
    keys, places = _keys(root, passage.tokens), Counter[str]()
    for n, entry in enumerate(entries_in_ram(engine.ledger.index, root, passage.tokens)):
        tokens = min(PAGE_TOKENS, len(passage.tokens) - n * PAGE_TOKENS)
        if entry is not None:
            places[RAM] += tokens
        elif (name := _tier(engine, keys[n])) is not None:
            places[name] += tokens
    return StoredChunk(passage, kept_as, dict(places))


def _tier(engine: Engine, key: PageKey) -> str | None:
    """The tier that has a page of all layer groups that RAM lacks; the slowest of them, if they are in several."""
    entry = engine.ledger.index.entries.get(key)
    lacking = [g for g in range(len(engine.layout.formats)) if entry is None or entry.pages[g] is None]
    tiers = [engine.tiers.find(Place(key, group)) for group in lacking]
    names = [tier.name for tier in tiers if tier is not None]
    order = [level.tier.name for level in engine.tiers.levels]
    return max(names, key=order.index) if names and len(names) == len(tiers) else None


def _keys(root: PageKey, tokens: Sequence[int]) -> list[PageKey]:
    """Of all pages, the unfinished last one too."""
    keys: list[PageKey] = []
    extend_keys(keys, root, tokens)
    rest = tokens[len(keys) * PAGE_TOKENS :]
    return [*keys, page_key(keys[-1] if keys else root, rest)] if rest else keys


def _passage(path: Sequence[Entry], lead: int) -> Passage:
    """As far as all layer groups have it."""
    tokens: list[int] = []
    for entry in path:
        if not is_whole(entry):
            break
        tokens += entry.tokens
    return Passage(tuple(tokens), lead)
