"""InfiniteBench (Zhang et al. 2024): twelve tasks beyond 100K tokens. Rows: id, context, input, answer, options.

https://huggingface.co/datasets/xinrongzhang2022/InfiniteBench (MIT). Cut to a model's length, most of the tasks
become unsolvable; the control of a run shows that.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

from kvloom.eval.public import metrics as m
from kvloom.eval.public.base import Item, Metric, PublicTask
from kvloom.eval.public.rows import Row, hub_rows, local_rows

_ASK = "\n\n{input}\n\nAnswer:"
_CHOOSE = "\n\nQuestion: {input}\n{options}\n\nThe letter of the correct option is"

_SETS: dict[str, tuple[str, Metric, int]] = {
    "passkey": ("\n\n{input}\n\nThe pass key is", m.best_of(m.first_number), 6),
    "number_string": ("\n\n{input}\n\nThe digits are", m.best_of(m.first_number), 12),
    "kv_retrieval": (_ASK, m.best_of(m.word_among), 50),
    "longbook_sum_eng": ("\n\nSummary of the book:", m.best_of(m.rouge_l_sum), 1200),
    "longbook_choice_eng": (_CHOOSE, m.chosen_option, 40),
    "longbook_qa_eng": ("\n\nQuestion: {input}\nShort answer:", m.qa_f1, 40),
    "longbook_qa_chn": ("\n\n问题：{input}\n简短回答：", m.characters_f1, 40),
    "longdialogue_qa_eng": ("\n\nThe name hidden behind $$MASK$$ is", m.name_among, 40),
    "math_find": ("\n\n{input}\n\nThe number is", m.best_of(m.first_value), 10),
    "math_calc": ("\n\nThe values after each step are", m.best_of(m.right_prefix), 1024),
    "code_run": ("\n\n{input}\n\nThe value is", m.best_of(m.last_word_number), 5),
    "code_debug": (_CHOOSE, m.chosen_bug, 5),
}
"""(text after the context, metric, new tokens). New tokens are the authors', with two exceptions: 1024 instead of 30000
for math_calc, and 10 instead of 3 for math_find, whose numbers have up to four digits and a decimal point, each a token
in many vocabularies."""

PARTS = tuple(_SETS)


def task(part: str, path: Path | None) -> PublicTask:
    """One task; ``path``: a JSON lines file, or a directory of them."""
    question, metric, new_tokens = _SETS[part]
    convert = partial(_item, part, question)

    def read() -> list[Item]:
        repository = "xinrongzhang2022/InfiniteBench"
        return hub_rows(repository, None, part, convert) if path is None else local_rows(path, part, convert)

    return PublicTask("infinitebench", part, cache(read), metric, new_tokens)


def _item(part: str, question: str, row: Row) -> Item:
    options = list(row.get("options") or [])
    asked = question.replace(
        "{options}", "\n".join(f"{letter}. {each}" for letter, each in zip("ABCD", options, strict=False))
    )
    return Item(
        context=row["context"], question=asked.replace("{input}", row["input"]), answers=_answers(part, row, options)
    )


def _answers(part: str, row: Row, options: list[str]) -> tuple[str, ...]:
    answers = row["answer"]
    answers = (
        [str(answers)] if part == "math_calc" or not isinstance(answers, list) else [str(each) for each in answers]
    )
    if not answers:
        raise ValueError("there is no answer")
    if part in ("longbook_choice_eng", "code_debug"):
        return answers[0], "ABCD"[options.index(answers[0])]
    return tuple(answers)
