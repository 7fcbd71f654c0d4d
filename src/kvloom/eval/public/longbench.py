"""LongBench v1 (Bai et al. 2023): 21 sets in six groups. Rows: context, input, answers, all_classes.

https://huggingface.co/datasets/THUDM/LongBench; the code is MIT, each data set has its own licence.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

from kvloom.eval.public import metrics as m
from kvloom.eval.public.base import Item, Metric, PublicTask
from kvloom.eval.public.rows import Row, hub_rows, local_rows

_QUESTION = "\n\nAnswer with a short phrase, from the text above only.\n\nQuestion: {input}\nAnswer:"
_FRAGE = "\n\n请只根据上文简短作答。\n\n问题：{input}\n回答："
_SUMMARY = "\n\nSummarize all of the above in about one page.\n\nSummary:"
_EXAMPLES = "\n{input}"

_SETS: dict[str, tuple[str, Metric, int]] = {
    "narrativeqa": (_QUESTION, m.qa_f1, 128),
    "qasper": (_QUESTION, m.qa_f1, 128),
    "multifieldqa_en": (_QUESTION, m.qa_f1, 64),
    "multifieldqa_zh": (_FRAGE, m.chinese_f1, 64),
    "hotpotqa": (_QUESTION, m.qa_f1, 32),
    "2wikimqa": (_QUESTION, m.qa_f1, 32),
    "musique": (_QUESTION, m.qa_f1, 32),
    "dureader": (_FRAGE, m.best_of(m.rouge_l_chinese), 128),
    "gov_report": (_SUMMARY, m.best_of(m.rouge_l), 512),
    "qmsum": ("\n\nAnswer in a few sentences.\n\nQuery: {input}\nAnswer:", m.best_of(m.rouge_l), 512),
    "multi_news": (_SUMMARY, m.best_of(m.rouge_l), 512),
    "vcsum": ("\n\n请总结上面的会议内容。\n\n总结：", m.best_of(m.rouge_l_chinese), 512),
    "trec": (_EXAMPLES, m.first_line(m.classification), 64),
    "triviaqa": (_EXAMPLES, m.first_line(m.qa_f1), 32),
    "samsum": (_EXAMPLES, m.first_line(m.best_of(m.rouge_l)), 128),
    "lsht": (_EXAMPLES, m.first_line(m.classification), 64),
    "passage_count": (
        "\n\nSome of the paragraphs above occur more than once. How many different ones are there? Give the number "
        "alone.\n\nAnswer:",
        m.best_of(m.share_of_numbers),
        32,
    ),
    "passage_retrieval_en": (
        "\n\nOne of the paragraphs above is summarized here:\n\n{input}\n\nWhich? Say: Paragraph N.\n\nAnswer:",
        m.best_of(m.share_of_numbers),
        32,
    ),
    "passage_retrieval_zh": (
        "\n\n下面是其中一段的摘要：\n\n{input}\n\n是哪一段？请按“段落1”的格式作答。\n\n答案：",
        m.best_of(m.share_of_numbers),
        32,
    ),
    "lcc": ("\n", m.best_of(m.code_similarity), 64),
    "repobench-p": ("{input}", m.best_of(m.code_similarity), 64),
}
"""(text after the context, metric, new tokens). Metrics and new tokens are the authors'."""

PARTS = tuple(_SETS)

_GO_ON = ("trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p")
"""Few-shot examples and code: the authors do not use a chat template for these (pred.py)."""


def task(part: str, path: Path | None) -> PublicTask:
    """One data set; ``path``: a JSON lines file, or a directory of them."""
    question, metric, new_tokens = _SETS[part]
    convert = partial(_item, question)
    repository = "THUDM/LongBench"
    read = (
        partial(hub_rows, repository, part, "test", convert)
        if path is None
        else partial(local_rows, path, part, convert)
    )
    return PublicTask("longbench", part, cache(read), metric, new_tokens, chat=part not in _GO_ON)


def _item(question: str, row: Row) -> Item:
    return Item(
        context=row["context"],
        question=question.replace("{input}", row["input"]),
        answers=tuple(row["answers"]),
        facts={"all_classes": row["all_classes"]},
    )
