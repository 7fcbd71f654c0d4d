"""NoLiMa (Modarressi et al. 2025) from a local copy: needles that share no words with their question.

The user provides the data (Adobe Research License: no commercial use): a directory with ``needlesets/*.json`` and
``haystack/**/*.txt`` as on https://huggingface.co/datasets/amodaresi/NoLiMa.
"""

from __future__ import annotations

import json
import random
from functools import cache, partial
from pathlib import Path
from typing import Any

from kvloom.errors import DataFileError, EvalError
from kvloom.eval.public.base import Item, PublicTask
from kvloom.eval.public.metrics import contained

PARTS = ("onehop", "twohop")
_DEPTHS = 26
_HAYSTACK_CHARACTERS = 400_000


def task(part: str, path: Path | None) -> PublicTask:
    """All needles that have a question of this kind, at 26 depths in every haystack."""
    return PublicTask("nolima_public", part, cache(partial(_read, part, path)), contained, 32)


def _read(part: str, path: Path | None) -> list[Item]:
    if path is None:
        hint = "download it (its licence bars commercial use) and give the directory: --data nolima_public=DIR"
        raise EvalError("NoLiMa is read from a local copy only", hint=hint)
    needles = path if path.is_file() else path / "needlesets" / "needle_set.json"
    stacks = sorted((needles.parent.parent / "haystack").rglob("*.txt"))
    if not needles.is_file() or not stacks:
        raise DataFileError("needlesets/needle_set.json or haystack/**/*.txt is missing", path=path)
    try:
        groups = json.loads(needles.read_text("utf-8"))
        return [
            _item(group, test, part, depth, stack)
            for stack in (each.read_text("utf-8")[:_HAYSTACK_CHARACTERS] for each in stacks)
            for group in groups
            if part in group["questions"]
            for test in group["tests"].values()
            for depth in range(_DEPTHS)
        ]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataFileError(f"not a needle set: {error!r}", path=needles) from None


def _item(group: dict[str, Any], test: dict[str, Any], part: str, depth: int, stack: str) -> Item:
    values = dict(enumerate(test["input_args"], start=1))
    name = random.Random(f"{group['id']}/{values}/{depth}").choice(group["character_set"])
    needle, question = group["needle"].replace("{CHAR}", name), group["questions"][part]
    for number, value in values.items():
        needle, question = needle.replace(f"{{{number}}}", value), question.replace(f"{{{number}}}", value)
    share = depth / (_DEPTHS - 1)
    return Item(
        context=stack,
        question=f"\n\nQuestion: {question}\nAnswer:",
        answers=(name,),
        planted=(share, needle),
        facts={"depth": share},
    )
