"""What a study of fusion has answered, as it lies on disk, and how the ways to fuse compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean

from bench.side_by_side import JUDGE_SEED, SEED, name_of
from kvloom.eval.compare import Comparison, compare
from kvloom.eval.judge import Judge, judge_of
from kvloom.eval.policy import EXACT, Policy
from kvloom.eval.public.metrics import qa_f1
from kvloom.eval.records import Row, read_rows
from kvloom.eval.stats import Interval, bootstrap
from kvloom.eval.tasks.scoring import first_line, normalized
from kvloom.policy.fusion import Fusion, parse_fusion, text_of

NOTHING, EVERYTHING = 0.0, 1.0


def policy_of(fusion: Fusion) -> Policy:
    """By which rows name a way to fuse."""
    words = dict(word.split("=", 1) for word in text_of(fusion).partition(":")[2].split(",") if word)
    return Policy(fusion.name, words)


def directory_of(place: Path, fusion: Fusion | None, seed: int) -> Path:
    """``fusion``: None, the exact cache."""
    return place / name_of(EXACT if fusion is None else policy_of(fusion)) / f"answers-{seed}"


def rows_at(place: Path, fusion: Fusion | None, seed: int = SEED) -> list[Row]:
    """Empty if there are none."""
    directory = directory_of(place, fusion, seed)
    return read_rows(directory) if directory.is_dir() else []


def way_at(selector: str, ratio: float) -> str:
    """What a selector does at such a ratio, in the words of the way that stands for it: those that choose nothing, or
    everything, are the same way, apart from the layers up to the check layer.
    """
    if ratio == EVERYTHING:
        return "recompute"
    if ratio == NOTHING:
        name = selector.partition(":")[0]
        return "a3:ratio=0" if parse_fusion(f"{name}:ratio=0.5").exact_layers else "reuse"
    return f"{selector}{',' if ':' in selector else ':'}ratio={ratio:g}"


@dataclass(frozen=True)
class Records:
    """A model's, below ``place``. Questions that not all ways have answered are left out."""

    place: Path
    ways: tuple[str, ...]
    _rows: dict[str, list[Row]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        found = {way: rows_at(self.place, parse_fusion(way)) for way in self.ways}
        there = {way: rows for way, rows in found.items() if rows}
        exact = rows_at(self.place, None)
        common = {row.key for row in exact}.intersection(*({row.key for row in rows} for rows in there.values()))
        self._rows["exact"] = [row for row in exact if row.key in common]
        self._rows.update({way: [row for row in rows if row.key in common] for way, rows in there.items()})

    def __contains__(self, way: str) -> bool:
        return way in self._rows

    @property
    def exact(self) -> list[Row]:
        return self._rows["exact"]

    @property
    def complete(self) -> bool:
        """Whether there is something of every way, and of what chooses the tasks."""
        return all(way in self for way in self.ways) and bool(self.exact and self.judging)

    def rows(self, way: str) -> list[Row]:
        return self._rows[way]

    @cached_property
    def judging(self) -> list[Row]:
        return rows_at(self.place, None, JUDGE_SEED)

    @cached_property
    def judge(self) -> Judge:
        return judge_of([self.exact, self.judging], self.exact[0].settings)

    def against_exact(self, way: str) -> Comparison:
        return compare(self.exact, self.rows(way), self.judge, common=True)

    def between(self, one: str, other: str) -> Comparison:
        """The second less the first."""
        return compare(self.rows(one), self.rows(other), self.judge, common=True)

    @cached_property
    def counting(self) -> list[str]:
        """Tasks whose scores tell ways apart."""
        way = next(iter(way for way in self.ways if way in self))
        return [delta.task for delta in self.against_exact(way).deltas if delta.standing == "counts"]

    @cached_property
    def best(self) -> float:
        """The composite of the exact cache, 0 to 1."""
        by_task = [fmean(row.score for row in self.exact if row.task == task) for task in self.counting]
        return fmean(by_task) if by_task else 0.0

    def composite(self, way: str) -> float:
        overall = self.against_exact(way).overall
        return 0.0 if overall is None else self.best + overall.difference.mean

    def kl(self, way: str, tasks: Sequence[str] = ()) -> Interval:
        """Mean over questions of the mean KL of an answer's tokens, nats; all tasks unless some are named."""
        return bootstrap([kl(row) for row in self.rows(way) if not tasks or row.task in tasks])

    def kl_between(self, one: str, other: str) -> Interval:
        """The second less the first, question by question."""
        before = {row.key: kl(row) for row in self.rows(one)}
        return bootstrap([kl(row) - before[row.key] for row in self.rows(other)])

    def mean(self, way: str, task: str, of: Callable[[Row], float]) -> float:
        return fmean(of(row) for row in self.rows(way) if row.task == task)


def score(row: Row) -> float:
    """By the task's own metric."""
    return row.score


def f1(row: Row) -> float:
    """Of words, of the answer's first line."""
    return qa_f1(first_line(row.output), row.answers, {})


def exact_match(row: Row) -> float:
    """Whether the first line is an answer, SQuAD's normalization applied."""
    text = normalized(first_line(row.output))
    return float(text in {normalized(answer) for answer in row.answers})


def kl(row: Row) -> float:
    return row.kl or 0.0
