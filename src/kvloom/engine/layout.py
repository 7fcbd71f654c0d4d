"""From a model's KV map to page formats, plans and capacities: derived once, printed at start-up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from kvloom.attend.plan import LayerPlan
from kvloom.config import CacheConfig, available_memory_bytes, parse_bytes
from kvloom.errors import ConfigError, ParamsError
from kvloom.memory.arena import PAGE_METADATA_BYTES, fitting_slab_bytes, page_stride, slab_cost
from kvloom.memory.format import PAGE_TOKENS, PageFormat, head_format
from kvloom.memory.table import PageTable
from kvloom.model.kv_map import KvMap
from kvloom.policy.compression.uniform import kept_of

_BLOCKS = 4
_LEAST_BLOCK = 8 * PAGE_TOKENS
_CONTEXTS_WANTED = 8
_MEMORY_SHARE = 4


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a sequence is kept within a budget of bytes: after the ``first`` tokens, and whenever ``stride`` more have
    been computed, it is compressed to ``room`` bytes, which leaves as much as the next block needs.
    """

    first: int
    stride: int
    room: int


@dataclass(frozen=True)
class KvLayout:
    """How one model's KV lies in memory: a dense page format per layer group, in the order of ``kv_map.groups``.

    ``of_model``: the model's own map. Raises ConfigError when its layers cannot be cut into bands as ``config`` says.
    """

    of_model: KvMap
    config: CacheConfig
    step_tokens: int

    @cached_property
    def kv_map(self) -> KvMap:
        """In bands, if the config says so."""
        return self.of_model.in_bands(self.config.bands)

    @cached_property
    def formats(self) -> tuple[PageFormat, ...]:
        return tuple(
            PageFormat(group.name, group.layers, group.heads, group.k_dim, group.v_dim, self.config.kv_dtype)
            for group in self.kv_map.groups
        )

    @cached_property
    def windows(self) -> tuple[int | None, ...]:
        return tuple(group.window for group in self.kv_map.groups)

    @cached_property
    def layers(self) -> tuple[LayerPlan, ...]:
        """What every step's plan says of each layer."""
        return tuple(
            LayerPlan(*self.kv_map.place(index), owns=kv.owner == index, scale=kv.scale)
            for index, kv in enumerate(self.kv_map.layers)
        )

    def place(self, layer: int) -> tuple[PageFormat, int, int]:
        """Of a layer's KV: the format of its pages, the layer group, and the slot there."""
        it = self.layers[layer]
        return self.formats[it.group], it.group, it.slot

    @cached_property
    def slab_bytes(self) -> int:
        return fitting_slab_bytes(self.formats, self.config.slab_bytes)

    @property
    def identity(self) -> str:
        """Names everything about the layout that KV bytes depend on: part of every key."""
        return identity_of(self.formats)

    def new_tables(self) -> tuple[PageTable, ...]:
        return tuple(PageTable(fmt, window) for fmt, window in zip(self.formats, self.windows, strict=True))

    def pages_for(self, group: int, tokens: int) -> int:
        """Pages that one sequence of ``tokens`` needs in a layer group at most at any moment."""
        window = self.windows[group]
        if window is not None:
            tokens = min(tokens, window + self.step_tokens + PAGE_TOKENS)
        return -(-tokens // PAGE_TOKENS)

    def dense_bytes(self, tokens: int) -> int:
        """What the pages of so many tokens take when nothing is compressed; a window keeps what the next token sees."""
        total = 0
        for fmt, window in zip(self.formats, self.windows, strict=True):
            first = 0 if window is None else max(0, tokens - window + 1) // PAGE_TOKENS
            total += (-(-tokens // PAGE_TOKENS) - first) * page_stride(fmt)
        return total

    def entries(self, tokens: int) -> dict[int, tuple[int, int]]:
        """By layer that owns KV: how many entries each KV head has of so many tokens when nothing is compressed (in a
        window, those that the next token sees), and how many heads there are.
        """
        return {
            layer: (tokens if window is None else min(tokens, window - 1), fmt.heads)
            for fmt, window in zip(self.formats, self.windows, strict=True)
            for layer in fmt.layers
        }

    def peak_bytes(self, tokens: int) -> int:
        """Bytes of the pages that one sequence of ``tokens`` needs at most at any moment."""
        return sum(self.pages_for(group, tokens) * page_stride(fmt) for group, fmt in enumerate(self.formats))

    def blocks_within(self, budget: int, limit: int) -> Blocks:
        """Raises ParamsError when a budget is too small to be divided. ``limit``: tokens of a sequence at most."""
        pages = _most(-(-limit // PAGE_TOKENS), lambda count: self.peak_bytes(count * PAGE_TOKENS) <= budget)
        first = pages * PAGE_TOKENS
        if first < min(limit, _LEAST_BLOCK):
            raise ParamsError(
                f"budget: {budget} bytes have room for {first} tokens; {_LEAST_BLOCK} need "
                f"{self.peak_bytes(_LEAST_BLOCK)}",
                hint="a larger budget",
                param="budget",
            )
        stride = max(1, pages // _BLOCKS) * PAGE_TOKENS
        return Blocks(first, stride, budget - self.peak_bytes(stride))

    def bytes_for(self, tokens: int) -> int:
        """Slabs and metadata, in bytes, that one sequence of ``tokens`` needs when it is alone."""
        total = 0
        for group, fmt in enumerate(self.formats):
            per_slab = self.slab_bytes // page_stride(fmt)
            slabs = -(-(self.pages_for(group, tokens) + 1) // per_slab)  # one more: the copy in a copy-on-write
            total += slabs * (self.slab_bytes + per_slab * PAGE_METADATA_BYTES)
        return total

    def lists_of(self, tokens: int, ratio: float, rest: str | None) -> Iterator[tuple[PageFormat, int]]:
        """(format, pages) of the lists for what is left of so many tokens, however it is divided over KV heads.

        ``rest``: the codec of what does not stay, if it is stored. Every list may end with a page that has one entry.
        """
        for fmt, window in zip(self.formats, self.windows, strict=True):
            seen = tokens if window is None else min(tokens, window)
            kept = kept_of(seen, ratio)
            yield head_format(fmt), _pages_of_lists(fmt, kept)
            if rest is not None:
                yield head_format(fmt.recoded(rest)), _pages_of_lists(fmt, seen - kept)

    def bytes_after(self, tokens: int, ratio: float, rest: str | None, more: int) -> int:
        """As ``bytes_for``, of a sequence whose first ``tokens`` have been compressed, and that has so many more."""
        total = self.bytes_for(more)
        for fmt, pages in self.lists_of(tokens, ratio, rest):
            total += -(-pages // (self.slab_bytes // page_stride(fmt))) * slab_cost(fmt, self.slab_bytes)
        return total

    def bytes_for_blocks(self, blocks: Blocks) -> int:
        """As ``bytes_for``, of a sequence that is kept within a budget: its lists may begin slabs of their own."""
        lists = (slab_cost(head_format(fmt), self.slab_bytes) for fmt in self.formats)
        return self.bytes_for(blocks.first) + sum(lists)

    def capacity_tokens(self, budget_bytes: int, limit: int) -> int:
        """The longest single sequence, at most ``limit``, that the budget holds. 0 when not even one token fits."""
        return _most(limit, lambda tokens: self.bytes_for(tokens) <= budget_bytes)

    def budget_bytes(self, context_length: int) -> int:
        """``kv_bytes`` as a number. Raises ConfigError when it cannot hold a single token."""
        least = self.bytes_for(1)
        if self.config.kv_bytes == "auto":
            wanted = _CONTEXTS_WANTED * self.bytes_for(context_length)
            return max(min(wanted, available_memory_bytes() // _MEMORY_SHARE), least)
        budget = parse_bytes(self.config.kv_bytes)
        if budget < least:
            raise ConfigError(
                f"kv_bytes of {budget} is too small: one token needs {least} bytes ({len(self.formats)} page formats, "
                f"slabs of {self.slab_bytes} bytes)",
                hint="raise kv_bytes",
            )
        return budget


def identity_of(formats: Iterable[PageFormat]) -> str:
    """Of pages in these formats, by layer group: see ``KvLayout.identity``."""
    groups = [f"{f.name}:{f.layers}:{f.heads}x{f.k_dim}/{f.v_dim}:{f.codec}" for f in formats]
    return f"dense-kT-{PAGE_TOKENS}:" + ";".join(groups)


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``limit`` that fits, as all smaller ones do; 0 when none does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _pages_of_lists(dense: PageFormat, entries: int) -> int:
    """For so many entries of each KV head of a layer group on average."""
    lists = dense.heads * len(dense.layers)
    return lists * (entries + dense.tokens - 1) // dense.tokens if entries else 0
