"""From changes to events, and what subscribers know when they have heard all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from kvloom.engine.facts import KvFacts
from kvloom.policy.events import Block
from kvloom.segment import PageKey
from kvloom.server.events.feed import Change
from kvloom.server.events.wire import AllBlocksCleared, BlockRemoved, BlockStored

Event = BlockStored | BlockRemoved | AllBlocksCleared

_HASH_BYTES = 8


@dataclass
class Told:
    """``stored``: by layer group and hash, all that has been told to be stored, and not that it is gone."""

    facts: KvFacts
    stored: dict[tuple[int, int], Block] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._groups = {fmt: group for group, fmt in enumerate(self.facts.formats)}

    def events(self, changes: Iterable[Change]) -> list[Event]:
        """The same in vLLM's words; ``stored`` is then what it comes to. Pages in a row are one event."""
        found: list[Event] = []
        for kind, block in changes:
            if block is None:
                self.stored.clear()
                found.append(AllBlocksCleared())
                continue
            group, name = self._groups[block.format], hash_of(block.key)  # type: ignore[index]  # the feed's formats
            if kind == "stored":
                self.stored[group, name] = block
                self._add(found, block, group, name)
            elif self.stored.pop((group, name), None) is not None:
                self._remove(found, group, name)
        return found

    def snapshot(self) -> Iterator[Event]:
        """All that is stored, as if it had just come, beginnings of texts first."""
        found: list[Event] = []
        for (group, name), block in sorted(self.stored.items(), key=lambda item: item[1].position):
            self._add(found, block, group, name)
        yield from found

    def _add(self, found: list[Event], block: Block, group: int, name: int) -> None:
        parent, salted = self._parent(block)
        last = found[-1] if found else None
        if isinstance(last, BlockStored) and parent == last.block_hashes[-1] and self._told_as(group) == last.group_idx:
            last.block_hashes.append(name)
            last.token_ids.extend(block.tokens)
            if last.extra_keys is not None:
                last.extra_keys.append(None)
            return
        window = self.facts.windows[group]
        found.append(
            BlockStored(
                [name],
                parent,
                list(block.tokens),
                self.facts.page_tokens,
                extra_keys=[salted] if salted else None,
                group_idx=self._told_as(group),
                kv_cache_spec_kind="full_attention" if window is None else "sliding_window",
                kv_cache_spec_sliding_window=window,
            )
        )

    def _remove(self, found: list[Event], group: int, name: int) -> None:
        last = found[-1] if found else None
        if isinstance(last, BlockRemoved) and last.group_idx == self._told_as(group):
            last.block_hashes.append(name)
        else:
            found.append(BlockRemoved([name], group_idx=self._told_as(group)))

    def _parent(self, block: Block) -> tuple[int | None, tuple[str, ...]]:
        """The hash of the page before, and what sets the text apart from one without a salt."""
        if block.position:
            return hash_of(block.parent), ()
        root = block.parent
        return None, () if root is None or root == self.facts.root else (root.hex(),)

    def _told_as(self, group: int) -> int | None:
        return group if len(self.facts.formats) > 1 else None


def hash_of(key: PageKey | None) -> int:
    """As vLLM shortens its own: the low 64 bits."""
    return int.from_bytes((key or b"")[-_HASH_BYTES:], "big")


def in_parts(events: Sequence[Event], size: int) -> Iterator[Sequence[Event]]:
    """At least one, which may be empty."""
    for start in range(0, max(1, len(events)), size):
        yield events[start : start + size]
