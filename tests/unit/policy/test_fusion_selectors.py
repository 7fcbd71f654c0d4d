"""Which entries of documents are computed again: selectors as pure functions, against torch and by their properties."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvloom.errors import ParamsError
from kvloom.policy.fusion import Checked, Fusion, Need, View, fusion_of, parse_fusion, text_of
from kvloom.policy.fusion.a3 import pooled, question_attention
from kvloom.policy.fusion.fusion import taken_in_turn
from kvloom.policy.fusion.methods import SELECTORS
from kvloom.segment import Span

HEADS, KV_HEADS, DIM = 4, 2, 8
ALL = ("reuse", *SELECTORS, "a3+epic", "prophetkv+cacheblend+epic")


def view_of(documents: tuple[Span, ...], question: int, length: int, seed: int = 0, layers: int = 3) -> View:
    rng, start = np.random.default_rng(seed), documents[0].start

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    between, rows = question - start, length - question
    checked = Checked(
        DIM**-0.5,
        normal(rows, HEADS, DIM),
        normal(between + rows, KV_HEADS, DIM),
        normal(between, KV_HEADS, DIM),
        normal(between, KV_HEADS, DIM),
    )
    return View(length, question, documents, checked, np.abs(normal(layers, between)))


def in_torch(checked: Checked) -> np.ndarray:
    """The published rule, word for word: heads side by side, one softmax over sqrt(H D)."""
    q_QHD, k_NKD = map(torch.from_numpy, (checked.queries_QHD, checked.keys_NKD))
    rows, entries = len(q_QHD), len(k_NKD)
    k_NHD = k_NKD.repeat_interleave(HEADS // KV_HEADS, dim=1)
    logits = q_QHD.reshape(rows, -1) @ k_NHD.reshape(entries, -1).T / math.sqrt(HEADS * DIM)
    mask = torch.ones(rows, entries, dtype=torch.bool).tril(entries - rows)
    weights = logits.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    return weights.sum(dim=0).numpy()


def test_a3_is_the_published_rule() -> None:
    view = view_of((Span(3, 40), Span(40, 77)), 77, 90)
    assert view.checked is not None
    expected = in_torch(view.checked)
    assert np.allclose(question_attention(view.checked), expected, atol=1e-5)
    smooth = torch.nn.functional.avg_pool1d(torch.from_numpy(expected[:74])[None], 5, stride=1, padding=2)[0].numpy()
    assert np.allclose(SELECTORS["a3"]().scores(view), smooth, atol=1e-5)


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=5),
    st.integers(0, 6),
    st.lists(st.integers(0, 3), min_size=5, max_size=5),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.05, 0.15, 0.5, 1.0]),
    st.sampled_from(ALL[1:]),
)
def test_rows_are_candidates_within_the_budget(
    lengths: list[int], prefix: int, between: list[int], rows: int, ratio: float, name: str
) -> None:
    documents, at = [], prefix
    for length, gap in zip(lengths, between, strict=False):
        documents.append(Span(at, at + length))
        at += length + gap
    view = view_of(tuple(documents), at, at + rows)
    chosen = fusion_of(name, ratio).rows(view)
    inside = {position for span in documents for position in span.positions()}
    assert set(chosen.tolist()) <= inside
    assert np.all(np.diff(chosen) > 0)
    wanted = min(int(at * ratio), len(inside))
    if name == "epic":
        assert len(chosen) == min(wanted, sum(min(16, length) for length in lengths[1:]))
    else:
        assert len(chosen) == wanted


@pytest.mark.parametrize("name", [name for name in ALL[1:] if name != "epic"])
def test_at_full_ratio_everything_is_computed_again(name: str) -> None:
    view = view_of((Span(5, 20), Span(22, 40)), 41, 50)
    assert fusion_of(name, 1.0).rows(view).tolist() == [*range(5, 20), *range(22, 40)]


def test_reuse_computes_nothing_again() -> None:
    assert fusion_of("reuse").rows(view_of((Span(5, 20),), 20, 30)).size == 0


@pytest.mark.parametrize("place", [0, 1, 30, 58, 59])
def test_a_key_that_the_question_wants_is_chosen_with_its_neighbours(place: int) -> None:
    view = view_of((Span(10, 40), Span(40, 70)), 70, 75)
    assert view.checked is not None
    merged_KD = view.checked.queries_QHD.mean(axis=0).reshape(KV_HEADS, -1, DIM).sum(axis=1)
    view.checked.queries_QHD[:] = view.checked.queries_QHD.mean(axis=0)
    view.checked.keys_NKD[place] = 8 * merged_KD
    neighbours = {at for at in range(place - 2, place + 3) if 0 <= at < 60}
    chosen = fusion_of("a3", 5 / 70).rows(view)
    assert neighbours <= set((chosen - 10).tolist())


def test_smoothing_lowers_both_ends() -> None:
    assert pooled(np.ones(8, np.float32), 5).tolist() == pytest.approx([0.6, 0.8, 1, 1, 1, 1, 0.8, 0.6])
    assert pooled(np.ones(2, np.float32), 5).tolist() == pytest.approx([0.4, 0.4])


def test_values_that_have_not_changed_come_last() -> None:
    view = view_of((Span(4, 12), Span(12, 20)), 20, 24)
    assert view.checked is not None
    view.checked.values_SKD[:8] = view.checked.old_values_SKD[:8]
    assert fusion_of("cacheblend", 8 / 20).rows(view).tolist() == list(range(12, 20))


@pytest.mark.parametrize(("filters", "wider"), [(0, 50), (1, 50), (3, 100), (2, 0)])
def test_filters_narrow_evenly_to_the_budget(filters: int, wider: int) -> None:
    fusion = fusion_of("cacheblend", 0.25, filters=filters, wider=wider)
    counts = fusion.counts(400)
    assert len(counts) == filters + 1
    assert counts[-1] == 100
    assert counts[0] == (100 + wider if filters else 100)
    assert all(abs(a - b - wider / max(1, filters)) < 1 for a, b in pairwise(counts))
    assert fusion_of("reuse").counts(400) == (0,)


def test_a_filter_keeps_what_changed_most_of_what_is_left() -> None:
    fusion = fusion_of("cacheblend", 0.1, filters=1, wider=100)
    rng, rows = np.random.default_rng(1), np.array([3, 8, 9, 20, 31, 32])
    old = rng.standard_normal((6, 2, 4)).astype(np.float32)
    values = old + np.array([1, 5, 0, 4, 2, 6], np.float32)[:, None, None]
    assert fusion.narrowed(0, 30, rows, values, old).tolist() == [8, 20, 32]
    assert fusion.narrowed(0, 90, rows, values, old).tolist() == rows.tolist()


@pytest.mark.parametrize(
    "text", ["cacheblend:filters=-1", "cacheblend:wider=-5", "cacheblend+a3:filters=1", "a3:filters=1"]
)
def test_filters_that_make_no_sense(text: str) -> None:
    with pytest.raises(ParamsError):
        parse_fusion(text)


def test_epic_takes_the_beginnings_of_all_but_the_first() -> None:
    view = view_of((Span(4, 12), Span(12, 20), Span(20, 22)), 22, 24)
    assert fusion_of("epic", 1.0, tokens=3).rows(view).tolist() == [12, 13, 14, 20, 21]
    assert fusion_of("epic", 2 / 22, tokens=3).rows(view).tolist() == [12, 20]


def test_several_selectors_take_turns() -> None:
    first = np.array([5, 4, 3, 2, 1, 0], np.float32)
    second = np.array([0, 0, 0, -np.inf, 1, 2], np.float32)
    everything = np.ones(6, np.bool_)
    assert taken_in_turn([first, second], everything, 2).tolist() == [0, 5]
    assert taken_in_turn([first, second], everything, 4).tolist() == [0, 1, 4, 5]
    assert taken_in_turn([second], everything, 6).tolist() == [0, 1, 2, 4, 5]


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ParamsError, match="a number for each of 2"):
        taken_in_turn([np.array([0, np.nan], np.float32)], np.ones(2, np.bool_), 1)


def test_needs_say_how_many_layers_are_exact() -> None:
    assert fusion_of("a3").exact_layers == 2
    assert fusion_of("cacheblend", check_layer=0).exact_layers == 1
    assert fusion_of("epic").exact_layers == 0
    assert fusion_of("prophetkv").needs == {Need.ALL_ATTENTION}
    assert fusion_of("prophetkv+a3").exact_layers == 2


@pytest.mark.parametrize("name", ALL)
def test_what_is_shown_can_be_read(name: str) -> None:
    fusion = fusion_of(name)
    assert parse_fusion(text_of(fusion)) == fusion


def test_text_and_fields_mean_the_same() -> None:
    assert parse_fusion("a3+epic:ratio=0.3,tokens=4,kernel=3,check_layer=2") == fusion_of(
        "a3+epic", 0.3, 2, tokens=4, kernel=3
    )


@pytest.mark.parametrize(
    ("text", "param", "says"),
    [
        ("best", "selector", "unknown selector `best`"),
        ("a3+a3", "selector", "twice"),
        ("a3:0.5", "0.5", "not of the form"),
        ("a3:ratio=half", "ratio", "cannot read `half`"),
        ("a3:ratio=2", "ratio", "from 0 to 1"),
        ("a3:ratio=nan", "ratio", "from 0 to 1"),
        ("a3:ratio=0.1,ratio=0.2", "ratio", "twice"),
        ("a3:tokens=4", "tokens", "no parameter `tokens`"),
        ("a3:kernel=4", "kernel", "odd number"),
        ("epic:tokens=0", "tokens", "from 1 on"),
        ("a3:check_layer=-1", "check_layer", "from 0 on"),
        ("reuse:ratio=0.1", "ratio", "no parameters"),
    ],
)
def test_what_cannot_be_read(text: str, param: str, says: str) -> None:
    with pytest.raises(ParamsError, match=says) as caught:
        parse_fusion(text)
    assert caught.value.param == param


def test_a_fusion_is_a_value() -> None:
    assert isinstance(fusion_of("a3"), Fusion)
    assert fusion_of("a3", 0.2) == fusion_of("a3", 0.2)
    assert fusion_of("a3", 0.2) != fusion_of("a3", 0.3)
