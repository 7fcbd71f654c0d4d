"""Does the judge order methods that nobody would confuse, and do its measures agree? A page in Markdown.

    python -m bench.eval_calibration [--quick] [--model NAME ...] [--place DIR] [--length N ...] [--samples N]
        [--method NAME:PARAM=VALUE,... ...] [--ratio SHARE ...]

Runs the exact cache (on the samples, and on others that choose the tasks), keep-all, keep-nothing, sink and recent
tokens, key norms and random draws (three seeds) at several ratios: answers to tasks, and the fidelity of texts. With
``--method`` others take the place of these three, and are compared with each other in the same way. What is done
is kept in the place, by model and method; the same command goes on where it was stopped. ``--quick`` shows that it
works, and nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from bench.calibration import Measured, page
from bench.claims.eval_signal import NEEDLES, QUICK_TASKS
from bench.claims.int8_kl import MODELS
from bench.harness import note
from bench.side_by_side import JUDGE_SEED, SEED, SideBySide, name_of, steps, subject_named
from bench.text import real_text
from kvloom.eval.compare import compare, difference_of
from kvloom.eval.fidelity import Fidelity, Passage, fidelity_at
from kvloom.eval.identity import policy_digest
from kvloom.eval.judge import Judge, judge_of
from kvloom.eval.observe import methods_of
from kvloom.eval.policy import EXACT, FLOOR, Policy, parse_policy
from kvloom.eval.recall_texts import recall_passages
from kvloom.eval.records import Row
from kvloom.eval.run import Benchmark
from kvloom.eval.subject import Subject
from kvloom.eval.tasks import TASKS

SEEDS = 3
METHODS = ("sink_recent", "knorm", "random")


@dataclass(frozen=True, slots=True)
class Plan:
    """``texts``: how many are compared token by token, of ``text_tokens`` each, made ones and plain ones."""

    tasks: Sequence[Benchmark]
    lengths: tuple[int, ...]
    samples: int
    ratios: tuple[float, ...]
    texts: int
    text_tokens: int
    seeds: int = SEEDS
    methods: tuple[str, ...] = METHODS

    def policies(self) -> Iterator[Policy]:
        """All but the exact one."""
        yield parse_policy(FLOOR)
        yield parse_policy("keep_none")
        for ratio in self.ratios:
            for method in self.methods:
                name, _, words = method.partition(":")
                seeds = [f"seed={seed}" for seed in range(self.seeds)] if name == "random" else [""]
                for seed in seeds:
                    yield parse_policy(f"{name}:" + ",".join(filter(None, (f"ratio={ratio}", words, seed))))


FULL = Plan(
    tuple(TASKS[name] for name in (*NEEDLES, "multi_turn")), (1024, 2048), 25, (0.1, 0.3, 0.5, 0.7, 0.9), 6, 1024
)
QUICK = Plan(tuple(TASKS[name] for name in QUICK_TASKS[:2]), (512,), 4, (0.5, 0.9), 1, 256, seeds=1)


@dataclass(frozen=True, slots=True)
class Calibration:
    """One model's. Everything that is computed is written below ``place``, and read if it is there."""

    subject: Subject
    plan: Plan
    place: Path

    def page(self) -> str:
        """Do what is missing, and say what was found."""
        policies = list(self.plan.policies())
        self._answer_all(policies)
        fidelities = {name_of(policy): self._fidelity(policy) for policy in policies}
        exact = self._answers(EXACT)
        judge = judge_of([exact, self._answers(EXACT, JUDGE_SEED)], exact[0].settings)
        methods = methods_of([self._answers(policy) for policy in policies])
        found = [self._measured(exact, rows, judge, fidelities) for rows in methods]
        return page(self.subject.name, self._how(judge), found)

    def _answer_all(self, policies: Sequence[Policy]) -> None:
        """A few samples of a cell by every policy, then the next: all find the exact KV of the contexts."""
        plan, beside = self.plan, self._beside
        for count in steps(plan.samples):
            for length in plan.lengths:
                for task in plan.tasks:
                    note(f"{self.subject.name}: {task.name} at {length}, {count} of {plan.samples} samples")
                    for policy, seed in [(EXACT, JUDGE_SEED), (EXACT, SEED), *((each, SEED) for each in policies)]:
                        beside.run(policy, seed, beside.work(task, length, count, seed))

    def _answers(self, policy: Policy, seed: int = SEED) -> list[Row]:
        return self._beside.rows(policy, seed, self.plan.tasks, self.plan.lengths, self.plan.samples)

    @property
    def _beside(self) -> SideBySide:
        return SideBySide(self.subject, self.place)

    def _fidelity(self, policy: Policy) -> dict[str, float]:
        path, plan = self.place / name_of(policy) / "fidelity.json", self.plan
        asked = {"code": policy_digest(policy), "texts": plan.texts, "tokens": plan.text_tokens}
        asked |= {"weights": self.subject.engine.model.weights_id}
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["asked"] == asked:
                return dict(stored["found"])
        note(f"{self.subject.name}: {name_of(policy)}, texts")
        told = fidelity_at(self.subject, policy, recall_passages(self.subject, plan.text_tokens, plan.texts))
        found = _figures(told, fidelity_at(self.subject, policy, self._plain()))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"asked": asked, "found": found}, indent=2), encoding="utf-8")
        return found

    def _plain(self) -> list[Passage]:
        ids, size = self.subject.tokenizer.encode(real_text()), self.plan.text_tokens
        pieces = [ids[n * size : (n + 1) * size] for n in range(self.plan.texts)]
        return [Passage(piece, len(piece) // 2) for piece in pieces if len(piece) == size]

    def _measured(
        self, exact: list[Row], rows: list[Row], judge: Judge, fidelities: dict[str, dict[str, float]]
    ) -> Measured:
        comparison = compare(exact, rows, judge, common=True)
        seeds = {_label(row): None for row in rows}
        means = {key: fmean(fidelities[name][key] for name in seeds) for key in next(iter(fidelities.values()))}
        return Measured(comparison.b, comparison, difference_of(exact, rows, judge), **means)

    def _how(self, judge: Judge) -> list[str]:
        plan, counting = self.plan, [cell for cell in judge.standings if judge.of(cell) == "counts"]
        cells = ", ".join(f"{task} at {length}" for task, length in sorted(counting, key=lambda cell: cell[::-1]))
        lengths = ", ".join(map(str, plan.lengths))
        judged = judge.how or "nothing"
        return [
            f"{len(plan.tasks)} tasks at {lengths} tokens, {plan.samples} samples each. Judged on {judged},",
            f"{len(counting)} cells count: {cells or 'none'}.",
            f"Texts: {plan.texts} told twice and {plan.texts} plain ones of {plan.text_tokens} tokens, half of each",
            "the context. KV bytes are those right after compression, as a share of the exact cache's.",
        ]


def _figures(told: Fidelity, plain: Fidelity) -> dict[str, float]:
    recall = told.recall
    return {
        "recall_kept": 0.0 if recall is None else recall.kept.mean,
        "recall_kl": told.kl.mean if recall is None else recall.kl.mean,
        "plain_kl": plain.kl.mean,
    }


def _label(row: Row) -> str:
    return "-".join([row.settings.policy, *(f"{key}={value}" for key, value in row.settings.params.items())])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", action="append", help=f"by default {', '.join(MODELS)}")
    parser.add_argument("--place", type=Path, default=Path("eval-calibration"))
    parser.add_argument("--length", type=int, action="append")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--method", action="append")
    parser.add_argument("--ratio", type=float, action="append")
    asked = parser.parse_args(arguments)
    plan = QUICK if asked.quick else FULL
    plan = dataclasses.replace(
        plan,
        lengths=tuple(asked.length or plan.lengths),
        samples=asked.samples or plan.samples,
        methods=tuple(asked.method or plan.methods),
        ratios=tuple(asked.ratio or plan.ratios),
    )
    place = asked.place / "quick" if asked.quick else asked.place
    sections = [
        Calibration(subject_named(model), plan, place / model).page()
        for model in asked.model or (MODELS[:1] if asked.quick else MODELS)
    ]
    quick = ["**Quick run: it shows that the measurement works, and nothing else.**", ""] if asked.quick else []
    target = place / "calibration.md"
    title = "# Methods of compression side by side" if asked.method else "# How the judge orders known methods"
    target.write_text("\n".join([title, "", *quick, *sections]), encoding="utf-8")
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
