"""Statistics, summaries, comparisons and reports on rows whose story is known."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.errors import DataFileError, EvalError
from kvloom.eval.compare import compare
from kvloom.eval.records import Row, RunStore, Settings
from kvloom.eval.report.gather import gather, report_of
from kvloom.eval.report.markdown import markdown
from kvloom.eval.report.write import write_report
from kvloom.eval.stats import bootstrap, sign_test, stratified, wilson
from kvloom.eval.summary import summarize
from kvloom.eval.sweep import reach

SETTINGS = Settings(
    model="m",
    weights_id="ab" * 32,
    kv_dtype="float16",
    activations="int8",
    policy="exact",
    params={},
    protocol="query-agnostic",
    seed=1,
    in_flight=8,
    threads=2,
    versions={"kvloom": "1"},
)
DAMAGED = dataclasses.replace(SETTINGS, policy="damaged", params={"drop": 0.5})


def rows(
    task: str, scores: Sequence[float], *, length: int = 1024, control: float = 0.0, settings: Settings = SETTINGS
) -> list[Row]:
    return [
        Row(
            settings=settings,
            task=task,
            group="ruler" if task.startswith("niah") else "other",
            length=length,
            index=index,
            turn=0,
            score=score,
            control=None if index == 0 else control,
            output="o",
            answers=(str(index),),
            depth=index / len(scores) if task.startswith("niah") else None,
            prompt_tokens=1000,
            answer_tokens=3,
            cached_tokens=250,
            computed_tokens=753,
            ttft_s=1.0,
            ms_per_token=20.0,
            kv_bytes_per_token=23040.0 if settings.policy == "exact" else 11520.0,
            peak_kv_bytes=2**20,
        )
        for index, score in enumerate(scores)
    ]


GOOD, CHANCE = [1.0] * 18 + [0.0] * 2, [1.0, 0.0] * 10
EXACT = [*rows("niah_single", GOOD), *rows("yes_no", CHANCE, control=0.5), *rows("words", [0.5] * 20)]


def test_tasks_at_chance_carry_no_signal_and_stay_out_of_composites() -> None:
    found = summarize(EXACT)
    assert {cell.task: cell.signal for cell in found.cells} == {"niah_single": True, "yes_no": False, "words": True}
    assert found.silent == (("yes_no", 1024),)
    composites = {each.group: each for each in found.composites}
    assert composites["all"].tasks == ("niah_single", "words")
    assert composites["all"].score.mean == pytest.approx(0.7)
    assert composites["other"].tasks == ("words",)
    with pytest.raises(EvalError, match="no rows"):
        summarize([])


def test_turns_of_one_sample_are_one_observation() -> None:
    """Five turns about one context are no five samples: intervals do not narrow by asking the same text again."""
    few = rows("words", [1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    many = [dataclasses.replace(row, turn=turn) for row in few for turn in range(5)]
    (once,), (often,) = summarize(few).cells, summarize(many).cells
    assert (once.count, once.score) == (often.count, often.score)
    assert compare(many, many).deltas[0].count == 6


def test_a_few_samples_show_no_signal() -> None:
    assert summarize(rows("niah_single", [1.0] * 5)).silent == (("niah_single", 1024),)  # the first has no control
    assert summarize(rows("niah_single", [1.0] * 6)).silent == ()


def test_the_exact_run_decides_what_counts_for_the_others() -> None:
    damaged = [*rows("niah_single", [0.0] * 20, settings=DAMAGED), *rows("words", [0.5] * 20, settings=DAMAGED)]
    report = report_of([damaged, EXACT])
    assert report.unjudged == ()
    assert report.summaries[0].silent == ()
    assert report.summaries[0].composites[0].score.mean == pytest.approx(0.25)
    alone = report_of([damaged])
    assert alone.unjudged == ("m",)
    assert "No exact run of m: " in markdown(alone)
    assert alone.summaries[0].silent == (("niah_single", 1024),)


def test_every_model_has_a_judge_of_its_own() -> None:
    other = dataclasses.replace(SETTINGS, model="n")
    cannot = rows("words", [0.5] * 20, control=0.5, settings=other)
    damaged = rows("words", [0.9] * 20, settings=dataclasses.replace(DAMAGED, model="n"))
    report = report_of([EXACT, cannot, damaged])
    assert [len(each.silent) for each in report.summaries] == [1, 1, 1]
    assert report.summaries[2].silent == (("words", 1024),)  # as the exact run of the same model says
    assert [(each.model, each.a, each.b) for each in report.comparisons] == [("n", "exact", "damaged:drop=0.5")]


def test_a_comparison_pairs_prompts() -> None:
    damaged = [
        *rows("niah_single", [1.0] * 6 + [0.0] * 14, settings=DAMAGED),
        *rows("yes_no", CHANCE[::-1], settings=DAMAGED),
    ]
    found = compare(EXACT, damaged)
    needle, choice = found.deltas
    assert (needle.score_a, needle.score_b) == (0.9, pytest.approx(0.3))
    assert needle.difference.mean == pytest.approx(-0.6)
    assert needle.difference.high < 0
    assert needle.p == pytest.approx(2 * 2**-12)
    assert needle.signal
    assert not choice.signal
    assert found.overall is not None
    assert found.overall.mean == pytest.approx(-0.6)
    assert found.bytes_ratio == 0.5
    same = compare(EXACT, EXACT)
    assert same.overall is not None
    assert (same.overall.mean, same.overall_p, same.remarks) == (0.0, 1.0, ())


def test_what_cannot_be_compared_is_refused_or_remarked() -> None:
    with pytest.raises(EvalError, match="no prompt in common"):
        compare(EXACT, rows("niah_single", GOOD, length=2048))
    other = dataclasses.replace(SETTINGS, seed=2)
    with pytest.raises(EvalError, match="niah_single sample 0 asks different things"):
        compare(EXACT, rows("niah_single", GOOD, settings=other))
    for change, fault in (
        ({"chat": "ab"}, "chat '' against 'ab'"),
        ({"wording": "ruler"}, "wording 'own' against 'ruler'"),
    ):
        protocol = dataclasses.replace(DAMAGED, **change)
        with pytest.raises(EvalError, match=f"asked differently: {fault}"):
            compare(EXACT, rows("niah_single", GOOD, settings=protocol))
    threads = dataclasses.replace(SETTINGS, threads=1, versions={"kvloom": "2"})
    remarks = compare(EXACT, rows("niah_single", GOOD, settings=threads)).remarks
    assert remarks[0] == "threads: 2 against 1"
    assert remarks[1].startswith("versions: ")
    assert remarks[1].endswith("(not the policy's doing)")


def store(directory: Path, made: Sequence[Row]) -> Path:
    with RunStore(directory, made[0].settings) as opened:
        for row in made:
            opened.append(row)
    return directory


def test_a_report_says_it_all_in_three_forms(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    damaged = rows("niah_single", [0.0] * 20, settings=DAMAGED)
    report = gather([store(tmp_path / "a", EXACT), store(tmp_path / "b", damaged)])
    files = {path.name: path for path in write_report(report, tmp_path / "report")}
    assert {"report.md", "report.json", "quality-against-bytes.png", "differences-0.png"} <= set(files)
    assert all(path.stat().st_size > 500 for path in files.values())
    text = files["report.md"].read_text()
    assert "| niah_single | 1024 | 20 | 90.0 [" in text
    assert "| all | 1024 | 2 | 70.0 [" in text
    assert "## m: damaged:drop=0.5 against exact" in text
    assert "23040" in text
    data = json.loads(files["report.json"].read_text())
    assert data["comparisons"][0]["bytes_ratio"] == 0.5
    assert data["summaries"][0]["silent"] == [["yes_no", 1024]]
    with pytest.raises(DataFileError):
        gather([tmp_path / "absent"])


def test_the_heat_map_has_every_needle_at_its_depth() -> None:
    report = report_of([EXACT + rows("niah_single", [0.0] * 10, length=2048)])
    (label, found), *others = report.heat_maps
    assert not others
    assert (label, found.lengths) == ("m: exact", (1024, 2048))
    assert [row[0] for row in found.scores] == [1.0] * 9 + [0.5, 0.0]
    assert [row[1] for row in found.scores] == [0.0] * 10 + [None]
    assert "| 90% | 50 | 0 |\n| 100% | 0 |  |" in markdown(report)


def test_a_sweep_says_where_the_model_stops() -> None:
    lengths = {512: 1.0, 1024: 0.95, 2048: 0.9, 4096: 0.4, 8192: 0.9}
    swept = [row for n, share in lengths.items() for row in rows("a", share_of(share), length=n)]
    swept += [row for n in lengths for row in rows("b", CHANCE, control=0.5, length=n)]
    a, b = reach(swept)
    assert (a.base, a.effective_length, a.stops_at) == (1.0, 2048, 4096)
    assert (b.base, b.effective_length, b.stops_at) == (None, None, None)
    whole = reach([row for row in swept if row.task == "a" and row.length < 4096])[0]
    assert (whole.effective_length, whole.stops_at) == (2048, None)


def share_of(share: float) -> list[float]:
    return [1.0] * round(20 * share) + [0.0] * round(20 - 20 * share)


def test_intervals_hold_what_they_promise() -> None:
    """In 200 experiments, the bootstrap and Wilson intervals hold the truth about 95% of the time."""
    rng = np.random.default_rng(5)
    held = [0, 0]
    for _ in range(200):
        values = rng.random(40) < 0.7
        for n, interval in enumerate((bootstrap(values.tolist()), wilson(float(values.sum()), 40))):
            held[n] += interval.low <= 0.7 <= interval.high
    assert all(180 <= each <= 198 for each in held)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_an_interval_holds_its_mean_and_does_not_change(values: list[float]) -> None:
    interval = bootstrap(values)
    assert interval == bootstrap(values)
    assert interval.low - 1e-9 <= np.mean(values) <= interval.high + 1e-9
    assert stratified([values]).mean == pytest.approx(interval.mean)


def test_the_sign_test_is_the_binomial() -> None:
    assert sign_test([1.0] * 5 + [-1.0] + [0.0] * 3) == pytest.approx(2 * (1 + 6) / 64)
    assert sign_test([]) == sign_test([0.0]) == sign_test([1.0, -1.0]) == 1.0
    rng = random.Random(1)
    values = [rng.choice((-1.0, 1.0)) for _ in range(25)]
    less = min(values.count(1.0), values.count(-1.0))
    assert sign_test(values) == pytest.approx(min(1, 2 * sum(math.comb(25, k) for k in range(less + 1)) / 2**25))
