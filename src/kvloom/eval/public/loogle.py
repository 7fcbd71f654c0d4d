"""LooGLE (Li et al. 2023): questions whose evidence is close together or far apart, summaries, masked names.

https://huggingface.co/datasets/bigainlco/LooGLE. Rows: input (the text), qa_pairs (a list, as text), output.
The authors also use BLEU, METEOR, BERTScore and a language model as a judge; we use ROUGE-L and partial match only.
"""

from __future__ import annotations

import ast
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

from kvloom.eval.public import metrics as m
from kvloom.eval.public.base import Item, Metric, PublicTask
from kvloom.eval.public.rows import Row, hub_rows, local_rows

_SETS: dict[str, tuple[str, Metric, int]] = {
    "shortdep_qa": ("\n\nQuestion: {Q}\nAnswer:", m.best_of(m.rouge_l_recall), 300),
    "longdep_qa": ("\n\nQuestion: {Q}\nAnswer:", m.best_of(m.rouge_l_recall), 500),
    "longdep_summarization": ("\n\nSummary of the text:", m.best_of(m.rouge_l_recall), 500),
    "shortdep_cloze": (
        "\n\nIn this paragraph names are masked:\n{Q}\n\nGive them as a Python dict from mask to name.\nAnswer:",
        m.partial_cloze,
        50,
    ),
}

PARTS = tuple(_SETS)


def task(part: str, path: Path | None) -> PublicTask:
    """One task; ``path``: a JSON lines file, or a directory of them."""
    question, metric, new_tokens = _SETS[part]
    convert = partial(_items, question)

    def read() -> list[Item]:
        rows = hub_rows("bigainlco/LooGLE", part, "test", convert) if path is None else local_rows(path, part, convert)
        return list(chain.from_iterable(rows))

    return PublicTask("loogle", part, cache(read), metric, new_tokens)


def _items(question: str, row: Row) -> list[Item]:
    pairs: Any = row["qa_pairs"]
    if pairs == "none":
        return [Item(context=row["input"], question=question, answers=(row["output"],))]
    parsed = ast.literal_eval(pairs) if isinstance(pairs, str) else pairs
    return [_item(row["input"], question, pair) for pair in parsed]


def _item(text: str, question: str, pair: Row) -> Item:
    asked, answer = question.replace("{Q}", pair["Q"]), pair["A"]
    if isinstance(answer, dict):
        return Item(context=text, question=asked, answers=(str(answer),), facts={"names": answer})
    return Item(context=text, question=asked, answers=(str(answer),))
