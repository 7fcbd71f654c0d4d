"""Oolong (Bertsch et al. 2025), synthetic split: aggregation over many short items. Many questions share a context.

https://huggingface.co/datasets/oolongbench/oolong-synth (code MIT). Rows: context_window_text, question, answer (a
list as text), answer_type, task_group, context_len.
"""

from __future__ import annotations

import ast
import re
from functools import cache, partial
from pathlib import Path

from kvloom.eval.public.base import Item, PublicTask
from kvloom.eval.public.metrics import oolong_answer
from kvloom.eval.public.rows import Row, hub_rows, local_rows

PARTS = ("counting", "user", "timeline")
"""The authors' question groups."""

_DATE = re.compile(r"\[datetime\.date\((\d+), (\d+), (\d+)\)\]")


def task(part: str, path: Path | None) -> PublicTask:
    """The questions of a group; ``path``: a JSON lines file, or a directory with ``test.jsonl``."""

    def read() -> list[Item]:
        repository = "oolongbench/oolong-synth"
        rows = hub_rows(repository, None, "test", _item) if path is None else local_rows(path, "test", _item)
        return [item for item in rows if item.facts["task_group"] == part]

    return PublicTask("oolong_public", part, cache(partial(read)), oolong_answer, 64)


def _item(row: Row) -> Item:
    date = _DATE.fullmatch(row["answer"].strip())
    answer = (
        f"{int(date[1]):04}-{int(date[2]):02}-{int(date[3]):02}" if date else str(ast.literal_eval(row["answer"])[0])
    )
    return Item(
        context=row["context_window_text"],
        question=f"\n\n{row['question']}\n",
        answers=(answer,),
        facts={"answer_type": row["answer_type"], "task_group": row["task_group"]},
    )
