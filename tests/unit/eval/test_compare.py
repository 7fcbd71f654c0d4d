"""Two methods on the same prompts: neither side is preferred, nothing is left out in silence, an exact run judges."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from kvloom.errors import EvalError
from kvloom.eval.compare import Comparison, compare
from kvloom.eval.find import comparisons_of, find_runs
from kvloom.eval.judge import judge_of
from kvloom.eval.records import Row, RunStore, Settings
from made_rows import DAMAGED, FLOOR, SETTINGS, SINK, rows, seeded

GOOD, CHANCE = [1.0] * 18 + [0.0] * 2, [1.0, 0.0] * 10
EXACT = [*rows("niah_single", GOOD), *rows("yes_no", CHANCE, control=0.5), *rows("words", [0.7] * 20)]
JUDGE = judge_of([EXACT], SETTINGS)
DAMAGED_ROWS = [
    *rows("niah_single", [1.0] * 6 + [0.0] * 14, settings=DAMAGED),
    *rows("yes_no", CHANCE[::-1], settings=DAMAGED),
]
SINK_ROWS = [*rows("niah_single", [1.0] * 12 + [0.0] * 8, settings=SINK), *rows("yes_no", CHANCE, settings=SINK)]


def store(directory: Path, made: Sequence[Row]) -> Path:
    with RunStore(directory, made[0].settings) as opened:
        for row in made:
            opened.append(row)
    return directory


def as_if(made: Sequence[Row], settings: Settings) -> list[Row]:
    return [dataclasses.replace(row, settings=settings) for row in made]


def test_a_comparison_pairs_prompts() -> None:
    found = compare(EXACT, [*DAMAGED_ROWS, *rows("words", [0.7] * 20, settings=DAMAGED)], JUDGE)
    needle, words, choice = found.deltas
    assert (needle.score_a, needle.score_b) == pytest.approx((0.9, 0.3))
    assert needle.difference.mean == pytest.approx(-0.6)
    assert needle.difference.high < 0
    assert needle.p == pytest.approx(2 * 2**-12, abs=2e-3)
    assert (needle.count, needle.documents) == (20, 20)
    assert (needle.standing, words.standing, choice.standing) == ("counts", "counts", "no signal")
    assert found.overall is not None
    assert found.overall.difference.mean == pytest.approx(-0.3)
    assert found.bytes_ratio == 0.5
    assert found.end_bytes_ratio == 0.8
    same = compare(EXACT, EXACT, JUDGE)
    assert same.overall is not None
    assert (same.overall.difference.mean, same.overall.p, same.remarks) == (0.0, 1.0, ())
    assert same.overall.difference.low < 0 < same.overall.difference.high


def test_exchanged_methods_agree_up_to_the_sign() -> None:
    """An exact run chooses the cells, so it does not matter which of two lossy runs comes first."""
    forth, back = compare(DAMAGED_ROWS, SINK_ROWS, JUDGE), compare(SINK_ROWS, DAMAGED_ROWS, JUDGE)
    assert_mirrored(forth, back)
    assert forth.overall is not None
    assert forth.overall.difference.mean == pytest.approx(0.3)
    assert forth.overall.p <= 0.05


@pytest.mark.parametrize("seeds", [1, 3])
def test_exchanged_methods_agree_whatever_they_answer(seeds: int) -> None:
    rng = np.random.default_rng(3)
    names = [f"document {n // 2}" for n in range(24)]

    def runs(settings: Settings, count: int) -> list[Row]:
        each = [seeded(settings, seed) for seed in range(count)] if count > 1 else [settings]
        return [
            row
            for own in each
            for task in ("a", "b")
            for row in rows(task, rng.integers(0, 5, 24) / 4, settings=own, documents=names)
        ]

    judge = judge_of([[*rows("a", [1.0] * 24), *rows("b", [0.7] * 24)]], SETTINGS)
    a, b = runs(DAMAGED, seeds), runs(SINK, 1)
    assert_mirrored(compare(a, b, judge), compare(b, a, judge))


def assert_mirrored(forth: Comparison, back: Comparison) -> None:
    assert forth.overall is not None
    assert back.overall is not None
    for one, two in [
        *zip((each.difference for each in forth.deltas), (each.difference for each in back.deltas), strict=True),
        (forth.overall.difference, back.overall.difference),
    ]:
        assert (one.mean, one.low, one.high) == pytest.approx((-two.mean, -two.high, -two.low))
    assert [each.p for each in forth.deltas] == [each.p for each in back.deltas]
    assert [each.standing for each in forth.deltas] == [each.standing for each in back.deltas]
    assert (forth.overall.p, forth.overall.documents) == (back.overall.p, back.overall.documents)
    assert forth.overall.detectable == pytest.approx(back.overall.detectable)
    assert forth.bytes_ratio is not None
    assert back.bytes_ratio is not None
    assert forth.bytes_ratio == pytest.approx(1 / back.bytes_ratio)


def test_nothing_is_said_over_all_when_nobody_judges() -> None:
    nobody = judge_of([], SETTINGS)
    found = compare(DAMAGED_ROWS, SINK_ROWS, nobody)
    assert (found.overall, found.chosen) == (None, "")
    assert {each.standing for each in found.deltas} == {"not judged"}
    assert found.deltas[0].difference.mean == pytest.approx(0.3)


def test_failed_answers_cannot_be_left_out() -> None:
    """Without the rows that scored 0, a lossy run would look better than the exact one."""
    kept = [row for row in DAMAGED_ROWS if row.score > 0]
    with pytest.raises(
        EvalError, match="24 prompts of 2 cells were answered in one run only, the first in niah_single"
    ):
        compare(EXACT, kept, JUDGE)
    found = compare(EXACT, kept, JUDGE, common=True)
    assert [(each.task, each.only_a, each.only_b) for each in found.unpaired] == [
        ("niah_single", 14, 0),
        ("words", 20, 0),
        ("yes_no", 10, 0),
    ]


def test_cells_of_one_run_only_are_told() -> None:
    found = compare(EXACT, DAMAGED_ROWS, JUDGE)
    assert [(each.task, each.length, each.only_a, each.only_b) for each in found.unpaired] == [("words", 1024, 20, 0)]
    assert [each.task for each in found.deltas] == ["niah_single", "yes_no"]


def test_what_cannot_be_compared_is_refused_or_remarked() -> None:
    with pytest.raises(EvalError, match="no prompt in common"):
        compare(EXACT, rows("niah_single", GOOD, length=2048), JUDGE)
    other = dataclasses.replace(SETTINGS, seed=2)
    with pytest.raises(EvalError, match="niah_single sample 0 asks different things"):
        compare(EXACT, rows("niah_single", GOOD, settings=other), JUDGE)
    for change in ({"chat": "ab"}, {"wording": "ruler"}, {"haystack": "text"}, {"versions": {"tasks": "2"}}):
        with pytest.raises(EvalError, match="asked in different ways"):
            compare(EXACT, rows("niah_single", GOOD, settings=dataclasses.replace(SETTINGS, **change)), JUDGE)
    threads = dataclasses.replace(SETTINGS, threads=1, versions={"kvloom": "2"})
    remarks = compare(EXACT, rows("niah_single", GOOD, settings=threads), JUDGE).remarks
    assert remarks[0] == "also different: threads: 2 against 1"
    assert remarks[1].startswith("also different: versions: ")
    assert remarks[1].endswith("(not the policy's doing)")


def test_a_long_answer_does_not_change_the_ranking() -> None:
    """The bytes of an answer are not those of the context."""
    rambling = [dataclasses.replace(row, kv_bytes_per_token=20000.0) for row in SINK_ROWS]
    assert compare(EXACT, rambling, JUDGE).bytes_ratio == compare(EXACT, SINK_ROWS, JUDGE).bytes_ratio == 0.5
    old = [dataclasses.replace(row, context_bytes_per_token=None) for row in SINK_ROWS]
    found = compare(EXACT, old, JUDGE)
    assert found.bytes_ratio == found.end_bytes_ratio == 0.8
    assert any("right after compression" in remark for remark in found.remarks)


def test_a_method_that_keeps_nothing_has_no_bytes() -> None:
    empty = [dataclasses.replace(row, context_bytes_per_token=0.0) for row in SINK_ROWS]
    found = compare(EXACT, empty, JUDGE)
    assert (found.bytes_ratio, found.end_bytes_ratio) == (0.0, 0.8)
    assert compare(empty, DAMAGED_ROWS, JUDGE).bytes_ratio is None


def test_seeds_of_a_random_policy_are_put_together() -> None:
    def run(seed: int, score: float) -> list[Row]:
        return rows("niah_single", [score] * 20, settings=seeded(DAMAGED, seed))

    exact = rows("niah_single", [1.0] * 20)
    judge = judge_of([exact], SETTINGS)
    alike = compare(exact, run(0, 0.7) + run(1, 0.7) + run(2, 0.7), judge)
    apart = compare(exact, run(0, 0.4) + run(1, 0.7) + run(2, 1.0), judge)
    assert (alike.b, alike.deltas[0].count, alike.remarks) == ("random:ratio=0.5 (3 seeds)", 20, ())
    assert apart.deltas[0].difference.mean == pytest.approx(alike.deltas[0].difference.mean)
    assert apart.deltas[0].difference.half_width > 2 * alike.deltas[0].difference.half_width
    single = compare(exact, run(0, 0.7), judge)
    assert "random:ratio=0.5,seed=0 draws at random, and has 1 of 3 seeds" in single.remarks[0]
    with pytest.raises(EvalError, match=r"seeds of random:ratio=0.5 \(2 seeds\) are missing 1 answers"):
        compare(exact, run(0, 0.7) + run(1, 0.7)[:-1], judge)


def test_the_judge_and_the_other_seeds_are_found_beside(tmp_path: Path) -> None:
    exact = store(tmp_path / "exact", EXACT)
    damaged = store(tmp_path / "damaged", DAMAGED_ROWS)
    sink = [store(tmp_path / f"sink-{seed}", as_if(SINK_ROWS, seeded(SINK, seed))) for seed in range(3)]
    store(tmp_path / "other-model", as_if(EXACT, dataclasses.replace(SETTINGS, weights_id="cd" * 32)))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "rows.jsonl").write_text("nonsense\n")
    found = find_runs(damaged, sink[0])
    assert {place.name for place in found.used} == {"exact", "sink-1", "sink-2"}
    every = comparisons_of(found)
    assert [(each.a, each.b) for each in every] == [
        ("random:ratio=0.5", "sink_recent:ratio=0.5 (3 seeds)"),
        ("exact", "random:ratio=0.5"),
        ("exact", "sink_recent:ratio=0.5 (3 seeds)"),
    ]
    assert every[0].overall is not None
    assert every[0].overall.difference.mean == pytest.approx(0.3)
    assert [len(comparisons_of(find_runs(exact, place))) for place in (damaged, sink[0])] == [1, 1]
    store(tmp_path / "keep-all", as_if(EXACT, FLOOR))
    store(tmp_path / "keep-all-aware", as_if(EXACT, dataclasses.replace(FLOOR, protocol="query-aware")))
    noisy = find_runs(damaged, sink[0])
    assert {place.name for place in noisy.used} == {"exact", "sink-1", "sink-2", "keep-all"}
    assert [(each.a, each.b) for each in comparisons_of(noisy)[3:]] == [
        ("keep_all", "random:ratio=0.5"),
        ("keep_all", "sink_recent:ratio=0.5 (3 seeds)"),
        ("exact", "keep_all"),
    ]
    between = find_runs(sink[0], sink[1])  # two seeds of one policy are compared as they are
    assert {place.name for place in between.used} == {"exact", "keep-all"}
    named = find_runs(damaged, sink[0], [tmp_path / "other-model"])
    assert {place.name for place in named.used} == {"sink-1", "sink-2", "keep-all"}
