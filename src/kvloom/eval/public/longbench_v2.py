"""LongBench v2 (Bai et al. 2024): multiple choice on long texts. https://huggingface.co/datasets/THUDM/LongBench-v2"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

from kvloom.eval.public.base import Item, PublicTask
from kvloom.eval.public.metrics import best_of, stated_option
from kvloom.eval.public.rows import Row, hub_rows, local_rows

PARTS = ("short", "medium", "long")
"""The authors' classes of text length."""

_REPLY = "Reply in the form: The correct answer is (letter)"


def task(part: str, path: Path | None) -> PublicTask:
    """The questions of one length class; ``path``: the authors' data.json, or its directory."""

    def read() -> list[Item]:
        rows = hub_rows("THUDM/LongBench-v2", None, "train", _item) if path is None else local_rows(path, "data", _item)
        return [item for item in rows if item.facts["length_class"] == part]

    return PublicTask("longbench_v2", part, cache(partial(read)), best_of(stated_option), 128)


def _item(row: Row) -> Item:
    choices = "\n".join(f"({letter}) {row[f'choice_{letter}'].strip()}" for letter in "ABCD")
    if row["answer"] not in ("A", "B", "C", "D"):
        raise ValueError(f"answer {row['answer']!r} is not a letter from A to D")
    return Item(
        before="Read the text and answer the question about it.\n\n",
        context=row["context"].strip(),
        question=f"\n\nQuestion: {row['question'].strip()}\n{choices}\n\n{_REPLY}\n\nReply:",
        answers=(row["answer"],),
        facts={"length_class": row["length"], "difficulty": row["difficulty"], "domain": row["domain"]},
    )
