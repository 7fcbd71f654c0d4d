"""Gathering: entries from anywhere come to pages of single heads as they were stored, byte for byte."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gathered_in_numpy import filled, gathered
from kvloom import _kernels
from kvloom.arrays import aligned_bytes
from kvloom.codec import CODECS
from kvloom.errors import InternalError
from kvloom.kernels import isas
from kvloom.memory.arena import GRAIN_BYTES, page_stride
from kvloom.memory.cells import decoded, labels
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.gathering import Cells, Contents, Made, gather, read

SLOTS, HEADS, PAGES = 2, 3, 5
COUNT = PAGES * PAGE_TOKENS


class Stage:
    """Dense pages, and pages of single heads: each holds random entries."""

    def __init__(self, codec: str, k_dim: int, v_dim: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.dense = PageFormat("full", tuple(range(SLOTS)), HEADS, k_dim, v_dim, codec)
        self.heads = replace(self.dense, name="per-head", layers=(), heads=1, labelled=True)
        strides = [page_stride(fmt) for fmt in (self.dense, self.heads) for _ in range(PAGES)]
        starts = np.cumsum([0, *strides])
        self.memory = aligned_bytes(int(starts[-1]))
        ids = (starts[:-1] // GRAIN_BYTES).tolist()
        self.pages = {self.dense: self.rng.permutation(ids[:PAGES]), self.heads: self.rng.permutation(ids[PAGES:])}
        for fmt, pages in self.pages.items():
            filled(self.memory, fmt, pages, self.rng)

    def some(self, count: int) -> np.ndarray:
        return np.sort(self.rng.permutation(COUNT)[:count])

    def contents(self, slot: int, head: int, dense: int, listed: int, lead: int, made: int) -> Contents:
        """Entries of a list, and then of dense pages."""
        parts = [
            Cells.of(self.heads, self.pages[self.heads], 0, 0, self.some(listed)),
            Cells.of(self.dense, self.pages[self.dense], slot, head, self.some(dense)),
        ]
        cells = Cells.joined(parts)
        places_X = np.sort(self.rng.permutation(len(cells))[:made])
        k_XD = self.rng.normal(size=(len(places_X), self.dense.k_dim)).astype(np.float32)
        v_XD = self.rng.normal(size=(len(places_X), self.dense.v_dim)).astype(np.float32)
        bias_S = self.rng.normal(size=len(cells)).astype(np.float32)
        anew = Made(places_X, k_XD, v_XD) if made else None
        return Contents(cells, 7 + np.arange(len(cells)), bias_S, lead, anew)


sizes = st.sampled_from([0, 1, 15, 16, 17, 33, COUNT]) | st.integers(0, COUNT)


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=25, deadline=None)
@given(
    dims=st.sampled_from([(16, 16), (64, 64), (32, 80), (48, 16)]),
    seed=st.integers(0, 10**6),
    lists=st.lists(
        st.tuples(sizes, st.sampled_from([0, 0, 5, 40]), st.integers(0, 15), st.sampled_from([0, 0, 1, 30])),
        max_size=SLOTS * HEADS,
    ),
)
def test_what_is_gathered_is_what_was_stored(
    codec: str, dims: tuple[int, int], seed: int, lists: list[tuple[int, int, int, int]]
) -> None:
    stage = Stage(codec, *dims, seed)
    contents = [stage.contents(n // HEADS, n % HEADS, *each) for n, each in enumerate(lists)]
    expected_PB, expected_P = gathered(stage.memory, stage.heads, contents)
    before = stage.memory.copy()
    for threads in (1, 3):
        cells_PB, masks_P = gather(stage.memory, stage.heads, contents, threads)
        np.testing.assert_array_equal(masks_P, expected_P)
        np.testing.assert_array_equal(cells_PB, expected_PB)
    assert len(expected_P) == sum(each.pages for each in contents)
    np.testing.assert_array_equal(stage.memory, before)


@pytest.mark.parametrize("codec", CODECS)
def test_every_instruction_set_makes_the_same_bytes(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(codec, 64, 32, seed=3)
    contents = [stage.contents(slot, head, 50, 9, 3, 20) for slot in range(SLOTS) for head in range(HEADS)]
    expected_PB, _ = gathered(stage.memory, stage.heads, contents)
    for isa in isas():
        monkeypatch.setenv("KVLOOM_ISA", isa)
        assert _kernels.default_isa() == isa
        np.testing.assert_array_equal(gather(stage.memory, stage.heads, contents)[0], expected_PB)


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_gathered_is_read_as_it_was(codec: str) -> None:
    """Of the right layer and head, against the codec's own decoder."""
    stage = Stage(codec, 32, 48, seed=1)
    source, places = stage.pages[stage.dense], np.array([0, 3, 16, 33, 79])
    for slot in range(SLOTS):
        for head in range(HEADS):
            contents = Contents(Cells.of(stage.dense, source, slot, head, places), places, np.zeros(5, np.float32), 6)
            cells_PB, masks_P = gather(stage.memory, stage.heads, [contents])
            assert masks_P.tolist() == [0b11111 << 6]
            for n, place in enumerate(places.tolist()):
                was = decoded(stage.memory, stage.dense, int(source[place // PAGE_TOKENS]), slot, head)
                moved = decoded(cells_PB.reshape(-1), stage.heads, 0, 0, 0)
                for was_SD, moved_SD in zip(was, moved, strict=True):
                    np.testing.assert_array_equal(moved_SD[6 + n], was_SD[place % PAGE_TOKENS])
            positions_S, _ = labels(cells_PB.reshape(-1), stage.heads, 0)
            assert positions_S[6:11].tolist() == places.tolist()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dims", [(16, 16), (64, 32), (48, 80)])
def test_what_is_read_is_what_the_codec_decodes(codec: str, dims: tuple[int, int], monkeypatch) -> None:
    """Across both kinds of pages, in any order, by every instruction set."""
    stage = Stage(codec, *dims, seed=2)
    heads = [
        Cells.joined(
            [
                Cells.of(stage.heads, stage.pages[stage.heads], 0, 0, stage.some(37)),
                Cells.of(stage.dense, stage.pages[stage.dense], 1, head, stage.rng.permutation(COUNT)),
            ]
        )
        for head in range(HEADS)
    ]
    for keys in (True, False):
        expected_KSD = []
        for cells in heads:
            starts = cells.starts_S // GRAIN_BYTES * GRAIN_BYTES
            assert np.array_equal(starts, cells.starts_S), "cells of these dims begin at grains"
            pages = [decoded(stage.memory, stage.heads, int(start) // GRAIN_BYTES, 0, 0) for start in starts]
            x_SSD = np.stack([page[0 if keys else 1] for page in pages])
            expected_KSD.append(x_SSD[np.arange(len(cells)), cells.slots_S])
        for isa in isas():
            monkeypatch.setenv("KVLOOM_ISA", isa)
            for threads in (1, 3):
                found_SKD = read(stage.memory, stage.dense, heads, keys=keys, threads=threads)
                np.testing.assert_array_equal(found_SKD, np.stack(expected_KSD, axis=1))


def test_of_no_entries_nothing_is_read() -> None:
    stage = Stage("int16", 16, 32, seed=0)
    nothing = Cells.of(stage.dense, stage.pages[stage.dense], 0, 0, np.zeros(0, np.int64))
    assert read(stage.memory, stage.dense, [nothing] * HEADS, keys=False).shape == (0, HEADS, 32)
    with pytest.raises(InternalError, match="a cell lies outside"):
        read(stage.memory, stage.dense, [Cells(np.array([-64]), np.zeros(1, np.int32))], keys=True)


def test_numbers_that_are_not_finite_move_as_they_are() -> None:
    stage = Stage("int8", 16, 16, seed=0)
    stage.memory[:] = 255  # every step is NaN
    contents = [stage.contents(0, 1, 20, 0, 0, 0)]
    expected_PB, _ = gathered(stage.memory, stage.heads, contents)
    np.testing.assert_array_equal(gather(stage.memory, stage.heads, contents)[0], expected_PB)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda cells: Cells(cells.starts_S - 10**9, cells.slots_S), "a cell lies outside of the memory"),
        (lambda cells: Cells(cells.starts_S + 10**9, cells.slots_S), "a cell lies outside of the memory"),
        (lambda cells: Cells(cells.starts_S, cells.slots_S + 16), "an entry lies outside of its cell"),
        (lambda cells: Cells(cells.starts_S, cells.slots_S[1:]), "one of each per entry"),
    ],
)
def test_what_is_not_there_is_not_read(change, fault: str) -> None:
    stage = Stage("int16", 16, 16, seed=0)
    whole = stage.contents(0, 0, 20, 0, 0, 0)
    with pytest.raises(InternalError, match=fault):
        gather(stage.memory, stage.heads, [replace(whole, cells=change(whole.cells))])


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"lead": 16}, "less than a page stays unused"),
        ({"positions_S": np.arange(3)}, "one of each per entry"),
        ({"made": Made(np.array([20]), np.zeros((1, 16), np.float32), np.zeros((1, 16), np.float32))}, "a new entry"),
        ({"made": Made(np.array([0]), np.zeros((2, 16), np.float32), np.zeros((1, 16), np.float32))}, "a key and"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict, fault: str) -> None:
    stage = Stage("int16", 16, 16, seed=0)
    with pytest.raises(InternalError, match=fault):
        gather(stage.memory, stage.heads, [replace(stage.contents(0, 0, 20, 0, 0, 0), **changed)])
