"""Runs: what is asked is answered once, batches and order change nothing, a killed run goes on."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from kvloom.errors import ConfigError, DataFileError, EvalError, RunMismatch
from kvloom.eval.answering import EngineAnswers
from kvloom.eval.estimate import Speed, calibrate, estimate
from kvloom.eval.policy import EXACT, Policy, parse_policy
from kvloom.eval.prompt import Prompt
from kvloom.eval.records import PACKED, ROWS, Row, RunStore, read_rows
from kvloom.eval.run import Unwatched, Work, run, settings_of
from kvloom.eval.subject import Subject
from kvloom.memory.format import PAGE_TOKENS
from toy_tasks import ToyNeedle, tiny_subject, toy_work


def go(
    directory: Path,
    work: Work,
    subject: Subject | None = None,
    policy: Policy | None = None,
    in_flight: int = 4,
    **extra,
) -> list[Row]:
    subject, policy = subject or tiny_subject(), policy or EXACT
    with RunStore(directory, settings_of(subject, policy, seed=work.seed, in_flight=in_flight, **extra)) as store:
        run(work, subject, EngineAnswers(subject, in_flight, policy, extra.get("protocol", "query-agnostic")), store)
    subject.engine.check()
    return read_rows(directory)


def said(rows: list[Row]) -> dict:
    return {row.key: (row.output, row.score) for row in rows}


def test_every_prompt_gets_one_complete_row(tmp_path: Path) -> None:
    rows = go(tmp_path, toy_work(count=3, num_turns=2))
    assert len(rows) == len({row.key for row in rows}) == 2 * 2 * 3 * 2
    row = rows[-1]
    assert row.settings.model == "tiny"
    assert row.settings.policy == "exact"
    assert row.settings.versions["kvloom"]
    assert row.answer_tokens <= 3
    assert row.computed_tokens == row.prompt_tokens - row.cached_tokens + row.answer_tokens - 1
    assert row.ttft_s > 0
    assert row.depth is not None
    assert row.kv_bytes_per_token >= 2 * 2 * 2 * 16 * 4  # K and V, layers, heads, dim, float32; pages round up
    assert row.peak_kv_bytes > row.kv_bytes_per_token * 60


def test_an_answer_that_comes_and_goes_in_one_step_has_held_memory_too(tmp_path: Path) -> None:
    """Its pages are those of the prompt: they round up to whole ones."""
    one, two = (go(tmp_path / f"{n}", toy_work(count=1, lengths=(60,), new_tokens=n), in_flight=1) for n in (1, 2))
    for row in one:
        assert row.answer_tokens == 1
        pages = -(-row.prompt_tokens // PAGE_TOKENS)
        assert row.kv_bytes_per_token * row.prompt_tokens == pytest.approx(row.peak_kv_bytes)
        assert row.peak_kv_bytes >= pages * PAGE_TOKENS * 2 * 2 * 2 * 16 * 4  # K and V, layers, heads, dim, float32
    assert one[0].peak_kv_bytes <= two[0].peak_kv_bytes


def test_batches_and_policies_that_keep_all_change_no_answer(tmp_path: Path) -> None:
    work = toy_work(count=3, num_turns=2)
    alone = go(tmp_path / "1", work, in_flight=1)
    together = go(tmp_path / "2", work, in_flight=8)
    by_hand = go(tmp_path / "3", work, policy=parse_policy("random:ratio=0.0"))
    assert said(alone) == said(together) == said(by_hand)


@pytest.mark.parametrize("protocol", ["query-agnostic", "query-aware"])
def test_damage_changes_answers_and_saves_memory(tmp_path: Path, protocol: str) -> None:
    work = toy_work(count=4, num_turns=2)
    exact = go(tmp_path / "1", work)
    damaged = go(tmp_path / "2", work, policy=parse_policy("random:ratio=0.5"), protocol=protocol)
    assert sum(said(exact)[key] != said(damaged)[key] for key in said(exact)) > 4
    assert damaged[0].kv_bytes_per_token < 0.8 * exact[0].kv_bytes_per_token
    assert {row.settings.label for row in damaged} == {
        "random:ratio=0.5,seed=0" + (" (query-aware)" if protocol == "query-aware" else "")
    }
    assert [row.cached_tokens > 0 for row in damaged[:4]] == [False, True] * 2  # the exact KV of the context


def test_samples_of_one_context_share_its_kv(tmp_path: Path) -> None:
    rows = go(tmp_path, Work(tasks=(ToyNeedle(sharing=4),), lengths=(100,), count=8, seed=1), in_flight=3)
    assert sorted(row.cached_tokens >= 80 for row in rows) == [False] * 2 + [True] * 6


class Killed(Exception):
    pass


class KillAfter(Unwatched):
    def __init__(self, count: int) -> None:
        self.left = count

    def answered(self, prompt: Prompt, row: Row) -> None:
        self.left -= 1
        if not self.left:
            raise Killed


def test_a_killed_run_goes_on_and_computes_nothing_twice(tmp_path: Path) -> None:
    work = toy_work(count=4)
    whole = go(tmp_path / "whole", work)
    subject, policy = tiny_subject(), EXACT
    settings = settings_of(subject, policy, seed=1, in_flight=4)
    with RunStore(tmp_path / "cut", settings) as store, pytest.raises(Killed):
        run(work, subject, EngineAnswers(subject, 4, policy), store, KillAfter(5))
    assert not subject.engine.has_work  # nothing left running
    path = tmp_path / "cut" / ROWS
    path.write_bytes(path.read_bytes() + b'{"settings": {"model": "ti')  # cut off in the middle of a line
    before = [row.key for row in read_rows_after_open(tmp_path / "cut", settings)]
    assert len(before) == 5
    rows = go(tmp_path / "cut", work)
    assert [row.key for row in rows[:5]] == before
    assert len(rows) == len(whole)
    assert said(rows) == said(whole)
    again = tiny_subject()
    go(tmp_path / "cut", work, again)
    assert again.engine.steps == 0


def read_rows_after_open(directory: Path, settings) -> list[Row]:
    with RunStore(directory, settings):
        pass
    return read_rows(directory)


def test_more_samples_extend_a_run(tmp_path: Path) -> None:
    few = go(tmp_path, toy_work(count=2))
    more = go(tmp_path, toy_work(count=3, lengths=(60, 90, 75)))
    assert more[: len(few)] == few
    assert len(more) == 2 * 3 * 3


def test_packed_rows_are_read_and_a_run_goes_on_beside_them(tmp_path: Path) -> None:
    few = go(tmp_path, toy_work(count=2))
    (tmp_path / PACKED).write_bytes(gzip.compress((tmp_path / ROWS).read_bytes()))
    (tmp_path / ROWS).unlink()
    assert read_rows(tmp_path) == few
    (tmp_path / ROWS).write_bytes(gzip.decompress((tmp_path / PACKED).read_bytes()))
    assert read_rows(tmp_path) == few  # none counts twice
    (tmp_path / ROWS).unlink()
    more = go(tmp_path, toy_work(count=3))
    assert more[: len(few)] == few
    assert len((tmp_path / ROWS).read_text().splitlines()) == len(more) - len(few) == len(few) // 2
    (tmp_path / PACKED).write_bytes((tmp_path / PACKED).read_bytes()[:99])
    with pytest.raises(DataFileError, match=r"rows.jsonl.gz`: cannot be read"):
        read_rows(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda: {"policy": parse_policy("random:ratio=0.5")},
        lambda: {"subject": tiny_subject(kv_dtype="float16")},
        lambda: {"subject": tiny_subject(activations="float32")},
        lambda: {"protocol": "query-aware"},
    ],
)
def test_settings_are_not_mixed(tmp_path: Path, change: Callable[[], dict]) -> None:
    go(tmp_path, toy_work(count=1))
    with pytest.raises(RunMismatch, match=r"rows of other settings: .* -> "):
        go(tmp_path, toy_work(count=2), **change())


def test_one_run_writes_at_a_time(tmp_path: Path) -> None:
    made = go(tmp_path, toy_work(count=1))
    settings = made[0].settings
    before = (tmp_path / ROWS).read_bytes()
    with RunStore(tmp_path, settings):
        with pytest.raises(EvalError, match="another run is writing to"):
            RunStore(tmp_path, settings)
        assert read_rows(tmp_path) == made  # looking is allowed
    with RunStore(tmp_path, settings) as again:
        assert list(again.rows.values()) == made
    assert (tmp_path / ROWS).read_bytes() == before


def test_broken_rows_are_named(tmp_path: Path) -> None:
    go(tmp_path, toy_work(count=1))
    path = tmp_path / ROWS
    lines = path.read_text().splitlines()
    for broken in ("nonsense", "[1]", "{}", json.dumps(json.loads(lines[1]) | {"surplus": 1})):
        path.write_text("\n".join([lines[0], broken, *lines[2:]]) + "\n")
        with pytest.raises(DataFileError, match=r"rows.jsonl`, line 2: not a row of results"):
            read_rows(tmp_path)
    with pytest.raises(DataFileError, match="no run found"):
        read_rows(tmp_path / "elsewhere")


def test_what_the_model_cannot_hold_is_refused_before_anything_runs(tmp_path: Path) -> None:
    subject = tiny_subject()
    with pytest.raises(EvalError, match="lengths 600 are beyond `tiny`, which holds 512 tokens"):
        go(tmp_path, toy_work(lengths=(60, 600)), subject)
    assert subject.engine.steps == 0
    with pytest.raises(EvalError, match="toy_needle sample 0 needs 517 tokens with its answer; `tiny` holds 512"):
        go(tmp_path, too_long_work(), subject)


def too_long_work() -> Work:
    @dataclasses.dataclass(frozen=True)
    class TooLong(ToyNeedle):
        def samples(self, *, length, count, seed, text_length):
            yield from super().samples(length=length + 7, count=count, seed=seed, text_length=text_length)

    return Work(tasks=(TooLong(),), lengths=(512,), count=1, seed=1)


def test_a_task_that_cannot_be_made_at_a_length_is_skipped_and_said(tmp_path: Path) -> None:
    class Large(ToyNeedle):
        def samples(self, *, length, count, seed, text_length):
            raise ConfigError("needs 5000 tokens")

    class Listening(Unwatched):
        def skipped(self, cell, why):
            said.append((cell.length, why))

    said: list = []
    subject, work = tiny_subject(), Work(tasks=(Large(name="large"), ToyNeedle()), lengths=(60,), count=2, seed=1)
    assert estimate(work, subject, Speed((1.0, 0.0), (1.0, 0.0))).prompts == 2
    with RunStore(tmp_path, settings_of(subject, EXACT, seed=1)) as store:
        run(work, subject, EngineAnswers(subject, 2, EXACT), store, Listening())
        assert {key[0] for key in store.rows} == {"toy_needle"}
    assert said == [(60, "needs 5000 tokens")]


def test_the_control_scores_another_samples_answer(tmp_path: Path) -> None:
    rows = go(tmp_path, toy_work(count=4, lengths=(60,)), in_flight=1)
    shapes = [row for row in rows if row.task == "toy_shape"]
    assert shapes[0].control is None
    for before, row in pairwise(shapes):
        assert row.control == (None if before.answers == row.answers else before.score)


def test_an_estimate_counts_what_is_left(tmp_path: Path) -> None:
    subject, work = tiny_subject(), toy_work(count=4)
    speed = Speed(prefill=(0.001, 0.0), answer=(0.01, 0.0))
    whole = estimate(work, subject, speed)
    assert whole.prompts == 16
    assert whole.new_tokens == 48
    assert whole.most_s == pytest.approx(0.001 * whole.prompt_tokens + 0.48)
    assert whole.least_s == pytest.approx(0.001 * whole.prompt_tokens + 0.16)
    go(tmp_path, toy_work(count=1), subject)
    with RunStore(tmp_path, settings_of(subject, EXACT, seed=1, in_flight=4)) as store:
        assert estimate(work, subject, speed, store).most_s == pytest.approx(0.75 * whole.most_s)
    turns = toy_work(count=4, num_turns=3)
    several = estimate(turns, subject, speed)
    assert several.prompts == 48
    assert several.most_s < 2 * whole.most_s + 2 * 0.48  # later turns find the context


def test_calibration_measures_and_leaves_nothing_behind() -> None:
    subject = tiny_subject()
    speed = calibrate(subject, 300, in_flight=3)
    assert speed.prefill[0] > 0
    assert speed.seconds(400, 0, 8) > speed.seconds(200, 0, 8) > speed.seconds(200, 190, 8) > 0
    assert subject.engine.stats().cache.held_pages == subject.engine.stats().cache.cached_pages == 0
