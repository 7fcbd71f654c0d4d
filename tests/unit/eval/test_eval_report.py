"""Summaries, sweeps and reports on rows whose story is known."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from kvloom.errors import DataFileError, EvalError
from kvloom.eval.compare import compare
from kvloom.eval.judge import Judge, Standing, judge_of
from kvloom.eval.observe import CellKey
from kvloom.eval.records import Row, RunStore
from kvloom.eval.report.gather import gather, report_of
from kvloom.eval.report.markdown import markdown
from kvloom.eval.report.write import write_report
from kvloom.eval.summary import summarize
from kvloom.eval.sweep import reach
from made_rows import DAMAGED, FLOOR, SETTINGS, SINK, rows

GOOD, CHANCE = [1.0] * 18 + [0.0] * 2, [1.0, 0.0] * 10
EXACT = [*rows("niah_single", GOOD), *rows("yes_no", CHANCE, control=0.5), *rows("words", [0.7] * 20)]


def test_tasks_at_chance_carry_no_signal_and_stay_out_of_composites() -> None:
    found = summarize([*EXACT, *rows("poor", [0.5] * 20)])
    standings = {cell.task: cell.standing for cell in found.cells}
    assert standings == {"niah_single": "counts", "yes_no": "no signal", "words": "counts", "poor": "too low"}
    assert found.left_out == (("poor", 1024, "too low"), ("yes_no", 1024, "no signal"))
    composites = {each.group: each for each in found.composites}
    assert composites["all"].tasks == ("niah_single", "words")
    assert composites["all"].score.mean == pytest.approx(0.8)
    assert composites["other"].tasks == ("words",)
    with pytest.raises(EvalError, match="no rows"):
        summarize([])


def test_turns_of_one_sample_and_questions_on_one_document_are_one_observation() -> None:
    """Five turns about one context are no five samples: intervals do not narrow by asking the same text again."""
    few = rows("words", [1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    many = [dataclasses.replace(row, turn=turn) for row in few for turn in range(5)]
    (once,), (often,) = summarize(few).cells, summarize(many).cells
    assert (once.count, once.score) == (often.count, often.score)
    shared = rows("words", [row.score for row in few for _ in range(5)], documents=[f"{n // 5}" for n in range(30)])
    (asked,) = summarize(shared).cells
    assert (asked.count, asked.documents) == (30, 6)
    assert (asked.score.low, asked.score.high) == pytest.approx((once.score.low, once.score.high))


def test_a_document_is_one_observation_across_tasks() -> None:
    scores = [1.0] * 7 + [0.0] * 3
    names = [f"book {n}" for n in range(10)]
    shared = summarize([*rows("a", scores, documents=names), *rows("b", scores, documents=names)]).composites[0]
    apart = summarize([*rows("a", scores), *rows("b", scores)]).composites[0]
    assert shared.score.mean == pytest.approx(apart.score.mean)
    assert shared.score.half_width > 1.2 * apart.score.half_width


def test_a_few_samples_show_no_signal() -> None:
    assert summarize(rows("niah_single", [1.0] * 6)).left_out == (("niah_single", 1024, "no signal"),)  # five controls
    assert summarize(rows("niah_single", [1.0] * 7)).left_out == ()


def test_luck_chooses_no_cells_that_it_is_measured_by() -> None:
    """Cells where a model is right three times in ten: those that look good are chosen, and look bad by comparison."""
    lucky = rows("words", [1.0] * 10 + [0.0] * 10)
    assert judge_of([lucky], SETTINGS).of(("words", 1024)) == "too low"
    other = dataclasses.replace(SETTINGS, seed=2)
    elsewhere = judge_of([lucky], other)  # chosen there, measured here: no luck is shared, so a low score will do
    assert (elsewhere.of(("words", 1024)), elsewhere.how) == ("counts", "other samples (seed 1)")
    both = judge_of([lucky, rows("words", [0.0] * 20, settings=other)], other)
    assert both.of(("words", 1024)) == "counts"
    assert judge_of([], SETTINGS).of(("words", 1024)) == "not judged"


def test_choosing_and_measuring_on_one_luck_costs_a_method_little() -> None:
    """A method that is worth what the exact cache is, on cells of every difficulty: it must not look worse."""
    rng = np.random.default_rng(1)
    exact, elsewhere, equal = [], [], []
    other = dataclasses.replace(SETTINGS, seed=2)
    for number in range(150):
        truth = rng.random()
        exact += rows(f"task {number}", rng.binomial(1, truth, 10))
        elsewhere += rows(f"task {number}", rng.binomial(1, truth, 10), settings=other)
        equal += rows(f"task {number}", rng.binomial(1, truth, 10), settings=DAMAGED)

    def bias(judge: Judge) -> float:
        found = compare(exact, equal, judge).overall
        assert found is not None
        return found.difference.mean

    assert abs(bias(judge_of([exact, elsewhere], SETTINGS))) < 0.025  # other samples choose
    assert -0.1 < bias(judge_of([exact], SETTINGS)) < 0  # about (2 x 0.85 - 1) / 12, as the documents say
    by_luck: dict[CellKey, Standing] = {(row.task, row.length): "counts" for row in exact if row.score > 0}
    assert bias(Judge(by_luck, "one right answer")) < 0


def test_the_exact_run_decides_what_counts_for_the_others() -> None:
    damaged = [*rows("niah_single", [0.0] * 20, settings=DAMAGED), *rows("words", [0.5] * 20, settings=DAMAGED)]
    report = report_of([damaged, EXACT])
    assert report.unjudged == ()
    assert report.summaries[0].left_out == ()
    assert report.summaries[0].composites[0].score.mean == pytest.approx(0.25)
    alone = report_of([damaged])
    assert alone.unjudged == ("m: random:ratio=0.5",)
    assert "No exact run beside m: random:ratio=0.5: " in markdown(alone)
    assert alone.summaries[0].composites == ()
    beside = report_of([damaged], [EXACT])
    assert (len(beside.summaries), beside.summaries[0], len(beside.comparisons)) == (1, report.summaries[0], 1)


def test_every_model_has_a_judge_of_its_own() -> None:
    other = dataclasses.replace(SETTINGS, model="n")
    cannot = rows("words", [0.7] * 20, control=0.7, settings=other)
    damaged = rows("words", [0.9] * 20, settings=dataclasses.replace(DAMAGED, model="n"))
    report = report_of([EXACT, cannot, damaged])
    assert [len(each.left_out) for each in report.summaries] == [1, 1, 1]
    assert report.summaries[2].left_out == (("words", 1024, "no signal"),)  # as the exact run of the same model says
    assert [(each.model, each.a, each.b) for each in report.comparisons] == [("n", "exact", "random:ratio=0.5")]


def test_methods_are_ranked_by_bytes_and_set_against_each_other() -> None:
    damaged = rows("niah_single", [0.0] * 20, settings=DAMAGED)
    sink = [
        dataclasses.replace(row, context_bytes_per_token=5760.0) for row in rows("niah_single", GOOD, settings=SINK)
    ]
    report = report_of([EXACT, damaged, sink])
    assert [(each.a, each.b) for each in report.comparisons] == [
        ("exact", "random:ratio=0.5"),
        ("exact", "sink_recent:ratio=0.5"),
    ]
    assert [(each.a, each.b) for each in report.pairs] == [("random:ratio=0.5", "sink_recent:ratio=0.5")]
    text = markdown(report)
    assert text.index("| m: sink_recent:ratio=0.5 | 25.0% | 80.0% |") < text.index(
        "| m: random:ratio=0.5 | 50.0% | 80.0% |"
    )
    assert "| m: random:ratio=0.5 | sink_recent:ratio=0.5 | 50.0% | 90.0 [" in text
    assert "would have been shown in 80 of 100 cases" in text


def test_noise_is_told_and_is_a_baseline() -> None:
    """A run that drops nothing is compared, wherever it lies; it has a part of its own only when it was asked for."""
    damaged = rows("niah_single", [0.0] * 20, settings=DAMAGED)
    floor = rows("niah_single", GOOD, settings=FLOOR)
    floor[:5] = [dataclasses.replace(row, output=f"{row.output}, or so") for row in floor[:5]]
    for report in (report_of([EXACT, damaged], floors=[floor]), report_of([EXACT, damaged, floor], floors=[floor])):
        assert [(each.a, each.b, each.equal) for each in report.floors] == [("exact", "keep_all", 0.75)]
        assert {frozenset((each.a, each.b)) for each in report.pairs} == {frozenset(("keep_all", "random:ratio=0.5"))}
        assert {each.b for each in report.comparisons} == {"keep_all", "random:ratio=0.5"}
        text = markdown(report)
        assert "Noise floor of m: keep_all drops nothing, moves everything, gives 75.0% of the answers of exact" in text
        assert "Answers that are the same, word for word: 75.0%." in text
    assert len(report_of([EXACT, damaged], floors=[floor]).summaries) == 2
    assert "Noise floor" not in markdown(report_of([EXACT, damaged]))


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
    assert "| niah_single | 1024 | 20 | 20 | 90.0 [" in text
    assert "| all | 1024 | 2 | 80.0 [" in text
    assert "## m: random:ratio=0.5 against exact" in text
    assert "23040" in text
    data = json.loads(files["report.json"].read_text())
    assert data["comparisons"][0]["bytes_ratio"] == 0.5
    assert data["summaries"][0]["left_out"] == [["yes_no", 1024, "no signal"]]
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
