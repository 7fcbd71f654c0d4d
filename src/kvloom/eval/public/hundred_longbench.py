"""100-LongBench (Yang et al. 2025): tasks of controlled length, from files made by the authors' generator (MIT).

Rows: new_context, input (a list of questions), answers (a list of lists), instruction. Scores are those of the original
metrics; the paper also uses a language model as a judge.
"""

from __future__ import annotations

from functools import cache, partial
from itertools import chain
from pathlib import Path

from kvloom.errors import EvalError
from kvloom.eval.public import metrics as m
from kvloom.eval.public.base import Item, Metric, PublicTask
from kvloom.eval.public.rows import Row, local_rows

_SETS: dict[str, tuple[Metric, int]] = {
    "kv_retrieval": (m.best_of(m.last_uuid), 64),
    "counting_stars": (m.best_of(m.first_number), 32),
    "passage_retrieval": (m.best_of(m.first_number), 32),
    "passage_count": (m.best_of(m.first_number), 32),
    "single_qa": (m.qa_f1, 64),
    "multi_qa": (m.qa_f1, 64),
    "single_sum": (m.best_of(m.rouge_l), 512),
    "multi_sum": (m.best_of(m.rouge_l), 512),
}

PARTS = tuple(_SETS)


def task(part: str, path: Path | None) -> PublicTask:
    """One task; ``path``: a file written by the generator, or a directory with ``<task>.jsonl`` files."""
    metric, new_tokens = _SETS[part]

    def read() -> list[Item]:
        if path is None:
            hint = "make one with the authors' generate_dataset.py, and give its path: --data hundred_longbench=PATH"
            raise EvalError("100-LongBench is read from a local copy only", hint=hint)
        return list(chain.from_iterable(local_rows(path, part, _items)))

    return PublicTask("hundred_longbench", part, cache(partial(read)), m.first_line(metric), new_tokens)


def _items(row: Row) -> list[Item]:
    return [
        Item(
            before=f"{row['instruction']}\n\n",
            context=row["new_context"],
            question=f"\n\n{question}\nAnswer:",
            answers=tuple(map(str, answers if isinstance(answers, list) else [answers])),
        )
        for question, answers in zip(row["input"], row["answers"], strict=True)
    ]
