"""What is left of quality when methods of compression remove half and more? A page in Markdown, and charts.

    python -m bench.compression_study --place DIR [--model NAME ...] [--length N ...] [--ratio SHARE ...]
        [--method NAME:PARAM=VALUE,... ...] [--task NAME ...] [--samples N] [--texts N] [--estimate] [--quick]

Every method answers the same prompts at every ratio, the question unknown while it chooses. A context is computed once
to be cached, and once in a pass in which all methods together see what they need; each then compresses a copy of the
cached one. It says first how long it will take, by a timed trial. All is kept below the place, by model and method, and
the same command goes on where it was stopped; ``--estimate`` does nothing else. ``--quick`` shows that it works.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from bench.claims.int8_kl import MODELS
from bench.side_by_side import subject_named
from bench.study import FULL, QUICK, Study
from bench.study_time import expected
from kvloom.eval.tasks import TASKS
from kvloom.model.files.store import pull


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--model", action="append", help=f"by default {', '.join(MODELS)}")
    parser.add_argument("--length", type=int, action="append")
    parser.add_argument("--ratio", type=float, action="append")
    parser.add_argument("--method", action="append")
    parser.add_argument("--task", action="append", choices=list(TASKS))
    parser.add_argument("--samples", type=int)
    parser.add_argument("--texts", type=int)
    parser.add_argument("--estimate", action="store_true")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args(arguments)
    plan = QUICK if asked.quick else FULL
    plan = dataclasses.replace(
        plan,
        tasks=tuple(TASKS[name] for name in asked.task or ()) or plan.tasks,
        lengths=tuple(asked.length or plan.lengths),
        ratios=tuple(asked.ratio or plan.ratios),
        methods=tuple(asked.method or plan.methods),
        samples=asked.samples or plan.samples,
        texts=plan.texts if asked.texts is None else asked.texts,
    )
    models = asked.model or (MODELS[:1] if asked.quick else MODELS)
    sections = []
    for model in models:
        pull(model)
        study = Study(subject_named(model), plan, asked.place / model)
        policies = study.possible()
        print(f"{model}: {expected(study, policies)}", flush=True)
        if not asked.estimate:
            study.answer_all([policy for *_, policy in policies])
            sections.append(study.report(policies))
    if sections:
        quick = ["**Quick run: it shows that the measurement works, and nothing else.**", ""] if asked.quick else []
        target = asked.place / "compression-study.md"
        target.write_text("\n".join(["# Methods of compression", "", *quick, *sections]), encoding="utf-8")
        print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
