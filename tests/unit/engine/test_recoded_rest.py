"""What goes is stored in int8 instead of being dropped: everything is still there, in fewer bytes."""

from __future__ import annotations

import numpy as np
import pytest

import tiny
from kvloom.arrays import Floats
from kvloom.attend.lists import HeadLists
from kvloom.codec import CODECS
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.kv import Stored
from kvloom.engine.params import SamplingParams
from kvloom.errors import ParamsError
from kvloom.eval.single import SingleSequence
from kvloom.memory.cells import all_labels
from kvloom.memory.format import PAGE_TOKENS, head_format
from kvloom.memory.gathering import Cells, read
from kvloom.policy.compression import compression_of

CONTEXT = 90
PROMPT = tiny.random_prompt(CONTEXT + 13, 1)
PARAMS = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, logprobs=0)
MODELS = {"dense": (None, None), "hybrid": (24, None, 24), "windows-only": (20, 20)}
every_model = pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)


def entries(sequence: SingleSequence, lists: HeadLists, number: int) -> tuple[list[int], Floats, Floats]:
    """Positions, keys and values of one list."""
    memory = sequence._ledger.arena.memory
    pages = slice(*lists.bounds_L1[number : number + 2].tolist())
    ids_P = lists.page_ids_P[pages]
    assert lists.masks_P is not None
    places_S = np.flatnonzero((lists.masks_P[pages, None] >> np.arange(PAGE_TOKENS) & 1).reshape(-1))
    positions_PS, bias_PS = all_labels(memory, lists.format, ids_P)
    assert not bias_PS.reshape(-1)[places_S].any()
    cells = [Cells.of(lists.format, ids_P, 0, 0, places_S)]
    k_SKD, v_SKD = (read(memory, lists.format, cells, keys=keys) for keys in (True, False))
    return positions_PS.reshape(-1)[places_S].tolist(), k_SKD[:, 0], v_SKD[:, 0]


@every_model
@pytest.mark.parametrize("ratio", [0.3, 0.8, 1.0])
def test_what_goes_is_there_in_int8_and_what_stays_as_it_was(windows: tuple[int | None, ...], ratio: float) -> None:
    compression = compression_of("knorm", ratio, compactor="recode")
    sequence = SingleSequence(tiny.make_engine(windows), CONTEXT + 50)
    sequence.append(PROMPT[:CONTEXT])
    watch, groups = sequence._see(compression), range(len(sequence._kv.tables))
    stored = [Stored.below(sequence._kv, group, CONTEXT) for group in groups]
    exact = {context.layer: context for one in stored for context in one.contexts(watch, compression.needs)}
    sequence.compress(compression)
    for of_group, table in zip(sequence._kv.lists, sequence._kv.tables, strict=True):
        stays, goes = of_group
        assert isinstance(stays, HeadLists)
        assert isinstance(goes, HeadLists)
        assert (stays.format, goes.format.codec) == (head_format(table.format), "int8")
        for number in range(stays.slots * stays.heads):
            context = exact[table.format.layers[number // stays.heads]]
            k_SD, v_SD = context.k_SKD[:, number % stays.heads], context.v_SKD[:, number % stays.heads]
            place = {position: n for n, position in enumerate(context.positions_S.tolist())}
            kept, k_kept, v_kept = entries(sequence, stays, number)
            gone, k_gone, v_gone = entries(sequence, goes, number)
            assert sorted(kept + gone) == context.positions_S.tolist()
            assert len(gone) == int(np.floor(ratio * len(place) + 0.5))
            at_kept, at_gone = ([place[position] for position in some] for some in (kept, gone))
            assert np.array_equal(k_kept, k_SD[at_kept])
            assert np.array_equal(v_kept, v_SD[at_kept])
            int8 = CODECS["int8"]
            assert (np.abs(k_gone - k_SD[at_gone]) <= int8.keys.bound(k_SD[at_gone])).all()
            assert (np.abs(v_gone - v_SD[at_gone]) <= int8.values.bound(v_SD[at_gone])).all()
    sequence.check()


def said(windows: tuple[int | None, ...], cache: CacheParams) -> tuple[list[float], int]:
    done = tiny.run(tiny.make_engine(windows), {"x": PROMPT}, PARAMS, cache=cache)["x"]
    scores = [score for update in done.updates for delta in update.deltas for score in delta.logprobs or ()]
    compressed = done.updates[-1].metrics.compressed
    return [next(iter(each.values())).logprob for each in scores], 0 if compressed is None else compressed.bytes


@every_model
def test_answers_are_nearly_those_of_exact_kv(windows: tuple[int | None, ...]) -> None:
    def of(ratio: float, compactor: str) -> tuple[list[float], int]:
        method = compression_of("knorm", ratio, compactor=compactor)
        return said(windows, CacheParams(compression=method, compress_after=CONTEXT))

    exact, _ = said(windows, CacheParams())
    gathered, recoded = of(0.8, "gather"), of(0.8, "recode")
    off_gathered, off_recoded = (abs(a[0][0] - exact[0]) for a in (gathered, recoded))
    assert off_recoded < 0.02 < off_gathered
    assert gathered[1] < recoded[1] < of(0.0, "gather")[1]
    assert of(0.0, "recode") == of(0.0, "gather")


def test_what_drops_nothing_cannot_stay_within_a_budget() -> None:
    with pytest.raises(ParamsError, match="compactor `recode` drops nothing") as caught:
        compression_of("knorm", budget=10_000, compactor="recode")
    assert caught.value.param == "compactor"
    with pytest.raises(ParamsError, match="compactor `recode` drops nothing"):
        CacheParams(compression=compression_of("knorm", 0.5, compactor="recode"), compress_when="pressure")
