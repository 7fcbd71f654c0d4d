"""Methods of compression side by side at several ratios, a model at a time: what is missing is computed, and kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.claims.eval_signal import FOUND, QUICK_TASKS
from bench.harness import note
from bench.side_by_side import JUDGE_SEED, SEED, Once, SideBySide, name_of, steps
from bench.study_page import Tried, draw, page
from bench.text import real_text
from kvloom.engine.kv import Watch
from kvloom.errors import KvloomError
from kvloom.eval.fidelity import Passage, fidelity_at
from kvloom.eval.identity import policy_digest
from kvloom.eval.judge import judge_of
from kvloom.eval.policy import EXACT, Policy, parse_policy
from kvloom.eval.prompt import Prompt, prompts_of
from kvloom.eval.records import Row, read_rows
from kvloom.eval.run import Benchmark, Work
from kvloom.eval.single import SingleSequence
from kvloom.eval.subject import Subject
from kvloom.eval.tasks import TASKS
from kvloom.policy.compression import Compression
from kvloom.policy.compression.needs import MEASURED

CANARIES = ("niah_multikey_3", "key_value")
"""What breaks first: many needles that look alike, and long values that have to be copied. No part of a composite."""

TASKS_USED = (*FOUND, "multi_turn", *CANARIES)
"""What small models can do with exact KV, and the canaries."""

METHODS = (
    *("random", "sink_recent", "observed_attention", "compactor", "knorm", "knorm:allocator=lukv"),
    *("keydiff", "keydiff:allocator=pyramid", "keydiff:allocator=adakv", "keydiff:allocator=lukv"),
    *("snapkv", "snapkv:allocator=adakv", "expected_attention", "expected_attention:allocator=adakv"),
    *("kvzip", "kvzip:allocator=global"),
    *("kvzap", "kvzap:allocator=pyramid", "kvzap:allocator=adakv", "kvzap:allocator=global", "kvzap:allocator=lukv"),
    *("kvzap:allocator=lukv,demote=0.5", "kvzap:allocator=lukv,critical=0.5"),
    *("kvzap:allocator=lukv,compactor=keepkv", "kvzap:allocator=lukv,compactor=matching"),
)

MethodAtRatio = tuple[str, float, Policy]
"""A method as it is asked for, without its ratio."""


@dataclass(frozen=True, slots=True)
class Plan:
    """``texts``: on how many of ``text_tokens``, half of each the context, the KL of the next token is measured."""

    tasks: Sequence[Benchmark]
    lengths: tuple[int, ...] = (2048, 4096)
    samples: int = 12
    ratios: tuple[float, ...] = (0.5, 0.75, 0.8, 0.9)
    methods: tuple[str, ...] = METHODS
    texts: int = 2
    text_tokens: int = 1024

    def policies(self) -> Iterator[MethodAtRatio]:
        for method in self.methods:
            name, _, words = method.partition(":")
            for ratio in self.ratios:
                yield method, ratio, parse_policy(f"{name}:" + ",".join(filter(None, (f"ratio={ratio}", words))))


FULL = Plan(tuple(TASKS[name] for name in TASKS_USED))
QUICK = Plan(
    tuple(TASKS[name] for name in (*QUICK_TASKS[:2], CANARIES[0])),
    (512,),
    8,
    (0.5, 0.8),
    ("knorm", "kvzip:allocator=global", "kvzap", "kvzap:allocator=lukv"),
    1,
    256,
)


@dataclass(frozen=True, slots=True)
class Study:
    """One model's. Everything that is computed is written below ``place``, and read if it is there."""

    subject: Subject
    plan: Plan
    place: Path

    @property
    def beside(self) -> SideBySide:
        return SideBySide(self.subject, self.place)

    def possible(self) -> list[MethodAtRatio]:
        """The methods that there is all for: a profile for the model, for instance. The others are told."""
        found, refused, most = list[MethodAtRatio](), set[str](), max(self.plan.ratios)
        context = self.subject.tokenizer.encode(real_text())[:96]
        for method, ratio, policy in self.plan.policies():
            if ratio == most:
                try:
                    _compress(self.subject, policy, context)
                except KvloomError as error:
                    refused.add(method)
                    note(f"{self.subject.name}: {method} is left out: {error}")
            found.append((method, ratio, policy))
        return [each for each in found if each[0] not in refused]

    def answer_all(self, policies: Sequence[Policy]) -> None:
        """A few samples of a cell by every method, then the next: all find the exact KV of the contexts."""
        plan, done = self.plan, 0
        once = [Once(task, plan.samples) for task in plan.tasks]
        for count in steps(plan.samples):
            for length in plan.lengths:
                for task in once:
                    note(f"{self.subject.name}: {task.name} at {length}, {count} of {plan.samples} samples")
                    self._answer(policies, task, length, done, count)
            done = count

    def _answer(self, policies: Sequence[Policy], task: Benchmark, length: int, done: int, count: int) -> None:
        """Samples of a cell from ``done`` to ``count``, and what is missing before."""
        beside = self.beside
        judging, work = (beside.work(task, length, count, seed) for seed in (JUDGE_SEED, SEED))
        beside.run(EXACT, JUDGE_SEED, judging)
        beside.run(EXACT, SEED, work)
        contexts = [turns[0].context_ids for turns in turns_of(work, self.subject, done)]
        missing = [policy for policy in policies if self._lacks(policy, work, done)]
        seen = self.subject.engine.intake.seen
        try:
            for context in contexts if missing else ():
                seen |= seen_by(self.subject, [each.compression for each in missing if each.compression], context)
            for policy in policies:
                beside.run(policy, SEED, work)
        finally:
            seen.clear()

    def _lacks(self, policy: Policy, work: Work, done: int) -> bool:
        task, length = work.tasks[0].name, work.lengths[0]
        directory = self.beside.directory(policy, SEED)
        rows = read_rows(directory) if directory.exists() else []
        there = {row.index for row in rows if (row.task, row.length) == (task, length)}
        return not there >= set(range(done, work.count))

    def kl(self, policy: Policy) -> float | None:
        """Mean KL of the next token's distribution on real text, in nats; computed once."""
        plan, path = self.plan, self.place / name_of(policy) / "kl.json"
        asked = {"code": policy_digest(policy), "texts": plan.texts, "tokens": plan.text_tokens}
        asked |= {"weights": self.subject.engine.model.weights_id}
        if not plan.texts:
            return None
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["asked"] == asked:
                return float(stored["kl"])
        found = float(fidelity_at(self.subject, policy, self._passages()).kl.mean)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"asked": asked, "kl": found}), encoding="utf-8")
        return found

    def _passages(self) -> list[Passage]:
        ids, size = self.subject.tokenizer.encode(real_text()), self.plan.text_tokens
        pieces = [ids[n * size : (n + 1) * size] for n in range(self.plan.texts)]
        return [Passage(piece, len(piece) // 2) for piece in pieces if len(piece) == size]

    def rows(self, policy: Policy, seed: int = SEED) -> list[Row]:
        return self.beside.rows(policy, seed, self.plan.tasks, self.plan.lengths, self.plan.samples)

    def report(self, policies: Sequence[MethodAtRatio]) -> str:
        """The section about this model; charts are drawn beside it."""
        exact = self.rows(EXACT)
        judge = judge_of([exact, self.rows(EXACT, JUDGE_SEED)], exact[0].settings)
        tried = [Tried(method, ratio, self.rows(policy), self.kl(policy)) for method, ratio, policy in policies]
        charts = draw(self.subject.name, exact, tried, judge, CANARIES, self.place)
        return page(self.subject.name, exact, tried, judge, CANARIES, [f"{self.place.name}/{name}" for name in charts])


def seen_by(subject: Subject, compressions: Sequence[Compression], context: list[int]) -> dict[tuple[int, ...], Watch]:
    """What these methods need to see of a context, for ``Intake.seen``; nothing if they look at what is stored."""
    if not any(isinstance(need, MEASURED) for each in compressions for need in each.needs):
        return {}
    sequence = SingleSequence(subject.engine, 2 * len(context) + 64)
    return {tuple(context): sequence.watch_for(compressions, context)}


def _compress(subject: Subject, policy: Policy, context: list[int]) -> None:
    assert policy.compression is not None
    sequence = SingleSequence(subject.engine, 3 * len(context))
    sequence.watch(policy.compression, context)
    sequence.append(context)
    sequence.compress(policy.compression)


def turns_of(work: Work, subject: Subject, first: int = 0) -> Iterator[list[Prompt]]:
    """Those of every sample from ``first`` on."""
    for cell in work.cells():
        for sample in work.samples(cell, subject):
            if sample.index >= first:
                yield prompts_of(cell.task, sample, subject, work.frame)
