"""From page tables and lists to a plan: host work, once per step.

C++ gathers the numbers of page tables: when the kernels have just streamed the weights through the caches, a line of
Python costs several times what it costs when it is run again and again, and a call of numpy on a few numbers takes
10 us.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from kvloom import _kernels
from kvloom.arrays import Floats
from kvloom.attend.lists import HeadLists, MoreLists
from kvloom.attend.plan import (
    ByHead,
    BySequence,
    Contiguous,
    Entries,
    Group,
    Ints,
    Labelled,
    LayerPlan,
    Lists,
    Masks,
    Part,
    Plan,
    Rotations,
    Seam,
    Writes,
)
from kvloom.errors import InternalError
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.table import FULL_MASK, PageTable
from kvloom.segment import SpanSet

_Number = TypeVar("_Number", np.int32, np.uint16)


class Turns(Protocol):
    """How a layer group's queries are turned: half-split rotary embedding."""

    def turns(self, shifts_U: Ints) -> tuple[Floats, Floats]:
        """cos and sin, float32 (U, R), that bring a query from its position to the one ``shifts_U`` below."""
        ...


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one sequence in a step: the positions of ``spans``, and what they read, by layer group.

    New KV goes to ``tables``. ``more`` is empty, or has for each group what is read beside the table.
    """

    spans: SpanSet
    tables: Sequence[PageTable]
    more: Sequence[Sequence[MoreLists]] = ()


def build_plan(sequences: Sequence[Rows], layers: tuple[LayerPlan, ...], turns: Sequence[Turns] = ()) -> Plan:
    """Describe where every row reads and writes. ``layers`` is the same for every step of a model.

    ``turns``: one per layer group, where lists have shifts. Raises InternalError when a sequence has no rows, or rows
    beyond its tables, and when a list has a shift that nobody can turn queries by.
    """
    try:
        return _laid(sequences, layers, turns)
    except ValueError as error:
        raise InternalError(f"the step cannot be laid out: {error}") from None


_Spans = list[list[tuple[int, int]]]


def _laid(sequences: Sequence[Rows], layers: tuple[LayerPlan, ...], turns: Sequence[Turns]) -> Plan:
    spans = [[(span.start, span.stop) for span in rows.spans] for rows in sequences]
    numbers, count = _kernels.lay_rows(spans)
    laid = np.frombuffer(numbers, np.int32)
    positions_T, slots_T, seq_rows_B1 = laid[:count], laid[count : 2 * count], laid[2 * count :]
    extended = [rows for rows in sequences if rows.more]
    groups = []
    for index, tables in enumerate(zip(*[rows.tables for rows in sequences], strict=True)):
        group = _tables_group(spans, tables, slots_T)
        if extended:
            more = [rows.more[index] if rows.more else () for rows in sequences]
            parts = [_hidden(part, tables) for part in group.parts]
            group = _with_lists(Group(group.window, tuple(parts), group.writes), more, turns[index] if turns else None)
        groups.append(group)
    return Plan(positions_T, seq_rows_B1, tuple(groups), layers)


# -- page tables -------------------------------------------------------------------------------------------------------


def _tables_group(spans: _Spans, tables: Sequence[PageTable], slots_T: Ints) -> Group:
    """What one layer group reads and writes by its tables, one per sequence. Pages of one format make a part."""
    some = tables[0]
    for table in tables:
        if table.format is not some.format or table.others:
            break
    else:
        pages = [(table.ids, table.writable) for table in tables]
        part, writes = _tables_part(spans, pages, some.format, some.window, slots_T)
        return Group(some.window, (part,), (writes,))
    pairs = []
    for fmt in sorted({fmt for table in tables for fmt in (table.format, *table.others)}, key=_format_key):
        pages = [(table.ids_in(fmt), table.writable) for table in tables]
        pairs.append(_tables_part(spans, pages, fmt, some.window, slots_T))
    return Group(some.window, tuple([part for part, _ in pairs]), tuple([writes for _, writes in pairs]))


_Pages = list[tuple["array[int]", bytearray]]
"""Ids, and which are writable, by sequence."""


def _tables_part(
    spans: _Spans, pages: _Pages, fmt: PageFormat, window: int | None, slots_T: Ints
) -> tuple[Part, Writes]:
    numbers, count = _kernels.lay_pages(spans, pages, window)
    laid = np.frombuffer(numbers, np.int32)
    rows = 2 * count + len(pages) + 1
    page_ids_P, starts_P, bounds_L1 = laid[:count], laid[count : 2 * count], laid[2 * count : rows]
    part = Part(fmt, BySequence(bounds_L1), Contiguous(starts_P), page_ids_P)
    return part, Writes(fmt, laid[rows:], slots_T)


# -- lists -------------------------------------------------------------------------------------------------------------


def _hidden(part: Part, tables: Sequence[PageTable]) -> Part:
    """Of a page some of whose entries are in lists, only the others are read."""
    cut = [(b, index, mask) for b, table in enumerate(tables) for index, mask in table.hidden().items()]
    if not cut or not isinstance(part.entries, Contiguous):
        return part
    masks_P = np.full(part.page_ids_P.size, FULL_MASK, np.uint16)
    for b, index, mask in cut:
        pages = slice(*part.lists.bounds_L1[b : b + 2])
        masks_P[pages][part.entries.starts_P[pages] == index * PAGE_TOKENS] = mask
    return replace(part, masks_P=masks_P)


def _with_lists(group: Group, more: Sequence[Sequence[MoreLists]], turns: Turns | None) -> Group:
    """The same group with lists beside its tables: ``more`` has those of every sequence."""
    alike: dict[_Kind, list[MoreLists | None]] = {}
    for b, lists in enumerate(more):
        seen: Counter[_Kind] = Counter()
        for one in lists:
            kind = _kind_of(one)
            alike.setdefault((*kind, seen[kind]), [None] * len(more))[b] = one
            seen[kind] += 1
    shifts = sorted({one.shift for lists in more for one in lists})
    rotations = None
    if any(shifts):
        if turns is None:
            raise ValueError("lists have shifts, but nothing says how queries are turned")
        shifts_U = np.array(shifts, np.int32)
        rotations = Rotations(shifts_U, *turns.turns(shifts_U))
    kinds = [(_kind(part.format, isinstance(part.lists, ByHead), part.slots, part.heads), part) for part in group.parts]
    kinds += [(kind, _lists_part(of_kind, shifts)) for kind, of_kind in alike.items()]
    kinds.sort(key=lambda pair: pair[0])
    parts = tuple([part for _, part in kinds])
    seams = []
    for table in group.parts:
        continued = _continued_by(table.format)
        if continued in alike:
            at = next(n for n, (kind, _) in enumerate(kinds) if kind == continued)
            seams.append(Seam(at, parts.index(table), _stops(alike[continued])))
    return Group(group.window, parts, group.writes, rotations, tuple(seams))


_Kind = tuple[Any, ...]
"""What decides about the order of a group's parts: what they are and, of several that a sequence has of one kind, the
which. It never depends on who else is in the step."""


def _kind(fmt: PageFormat, by_head: bool, slots: int, heads: int, continued: bool = False) -> _Kind:
    layout = fmt.layers, fmt.heads, fmt.k_dim, fmt.v_dim, fmt.codec
    return by_head, fmt.labelled, slots, heads, *layout, continued


def _kind_of(one: MoreLists) -> _Kind:
    if isinstance(one, HeadLists):
        return _kind(one.format, True, one.slots, one.heads, one.stop > 0 and one.shift == 0)
    return _kind(one.format, False, len(one.format.layers), one.format.heads)


def _continued_by(table: PageFormat) -> _Kind:
    """The kind of those lists that a table of this format continues: the first ones that a sequence has of it."""
    per_head = replace(table, layers=(), heads=1, labelled=True)
    return *_kind(per_head, True, len(table.layers), table.heads, continued=True), 0


def _stops(of_sequences: Sequence[MoreLists | None]) -> Ints:
    return np.array([one.stop if isinstance(one, HeadLists) else 0 for one in of_sequences], np.int32)


def _format_key(fmt: PageFormat) -> _Kind:
    return fmt.layers, fmt.heads, fmt.k_dim, fmt.v_dim, fmt.codec, fmt.name


def _lists_part(of_sequences: Sequence[MoreLists | None], shifts: Sequence[int]) -> Part:
    """One part of lists of one kind: where a sequence has none, they are empty."""
    some = next(one for one in of_sequences if one is not None)
    there = [one for one in of_sequences if one is not None]
    each = some.slots * some.heads if isinstance(some, HeadLists) else 1
    bounds_L1 = _bounds(of_sequences, each)
    lists: Lists = ByHead(bounds_L1, some.slots, some.heads) if isinstance(some, HeadLists) else BySequence(bounds_L1)
    return Part(
        some.format,
        lists,
        _entries(there),
        _joined([one.page_ids_P for one in there]),
        _masks(there),
        _turns(of_sequences, each, shifts),
    )


def _bounds(of_sequences: Sequence[MoreLists | None], each: int) -> Ints:
    bounds, reached = [np.zeros(1, np.int32)], 0
    for one in of_sequences:
        if isinstance(one, HeadLists):
            bounds.append(one.bounds_L1[1:] + np.int32(reached))
        else:
            bounds.append(np.full(each, reached + (0 if one is None else one.page_ids_P.size), np.int32))
        reached += 0 if one is None else one.page_ids_P.size
    return _joined(bounds)


def _entries(there: Sequence[MoreLists]) -> Entries:
    starts = [one.entries.starts_P for one in there if isinstance(one.entries, Contiguous)]
    return Contiguous(_joined(starts)) if starts else Labelled()


def _masks(there: Sequence[MoreLists]) -> Masks | None:
    if all(one.masks_P is None for one in there):
        return None
    return _joined(
        [np.full(one.page_ids_P.size, FULL_MASK, np.uint16) if one.masks_P is None else one.masks_P for one in there]
    )


def _turns(of_sequences: Sequence[MoreLists | None], each: int, shifts: Sequence[int]) -> Ints | None:
    of_lists = [0 if one is None else one.shift for one in of_sequences]
    if not any(of_lists):
        return None
    unturned = 0 if 0 not in shifts else shifts.index(0)
    index = [unturned if one is None else shifts.index(one.shift) for one in of_sequences]
    return np.repeat(np.array(index, np.int32), each)


def _joined(arrays: Sequence[npt.NDArray[_Number]]) -> npt.NDArray[_Number]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
