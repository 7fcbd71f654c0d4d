"""All offline tasks, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from kvloom.eval.corpus import read_corpus
from kvloom.eval.task import Task
from kvloom.eval.tasks.babi_stories import KINDS
from kvloom.eval.tasks.babilong import StoryInText
from kvloom.eval.tasks.documents import multi_document_qa, ruler_qa
from kvloom.eval.tasks.filler import Prose
from kvloom.eval.tasks.key_value import KeyValue
from kvloom.eval.tasks.longgen_answers import ManyAnswers
from kvloom.eval.tasks.longgen_diary import Diary
from kvloom.eval.tasks.material import OWN, Material
from kvloom.eval.tasks.multiturn import ManyQuestions
from kvloom.eval.tasks.niah import NeedleGrid
from kvloom.eval.tasks.nolima import NoLiteralMatch
from kvloom.eval.tasks.oolong import Aggregation, everything, one_side_of_a_date, one_user
from kvloom.eval.tasks.qa_files import QaSet, Reader, read_hotpot, read_open_questions, read_squad
from kvloom.eval.tasks.ruler_needles import SHAPES, Needles
from kvloom.eval.tasks.ruler_tracking import VariableTracking
from kvloom.eval.tasks.ruler_words import CommonWords, FrequentWords
from kvloom.eval.tasks.wording import Wording


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFiles:
    """Files given by the user. Each question file adds a task. Files are read when the first sample is generated."""

    text: Path | None = None
    """Filler text that replaces the built-in haystack."""
    squad: Path | None = None
    hotpot: Path | None = None
    open_questions: Path | None = None


FILE_TASKS: Mapping[str, str] = {"qa_1": "squad", "qa_2": "hotpot", "multidoc_qa": "open_questions"}
"""Tasks that need a file, and the field of ``TaskFiles`` for it."""


def make_tasks(files: TaskFiles, material: Material = OWN) -> dict[str, Task]:
    """All tasks that need no file, and those whose file is given. ``files.text`` overrides ``material.haystack``."""
    prose: Prose = material.prose if files.text is None else cache(partial(read_corpus, files.text))
    words = material.words
    tasks: list[Task] = [NeedleGrid("niah", "niah", prose)]
    tasks += [Needles(name, "ruler", shape, prose, words) for name, shape in SHAPES.items()]
    tasks += [VariableTracking("vt", "ruler", words)]
    tasks += [CommonWords("cwe", "ruler", words), FrequentWords("fwe", "ruler", words)]
    tasks += [StoryInText(f"babilong_{kind}", "babilong", kind, prose) for kind in KINDS]
    tasks += [
        NoLiteralMatch("nolima_one_hop", "nolima", 1, prose),
        NoLiteralMatch("nolima_two_hop", "nolima", 2, prose),
    ]
    tasks += [Diary("longgen_diary", "longgen"), ManyAnswers("longgen_answers", "longgen")]
    tasks += [KeyValue("key_value", "lost_in_the_middle"), ManyQuestions("multi_turn", "multi_turn", prose)]
    tasks += [Aggregation("oolong_all", "oolong", everything), Aggregation("oolong_user", "oolong", one_user)]
    tasks += [Aggregation("oolong_date", "oolong", one_side_of_a_date)]
    return {task.name: task for task in [*tasks, *_file_tasks(files, words)]}


def _file_tasks(files: TaskFiles, words: Wording) -> list[Task]:
    tasks: list[Task] = []
    if files.squad is not None:
        tasks.append(ruler_qa("qa_1", _lazy(read_squad, files.squad), words))
    if files.hotpot is not None:
        tasks.append(ruler_qa("qa_2", _lazy(read_hotpot, files.hotpot), words))
    if files.open_questions is not None:
        tasks.append(multi_document_qa(_lazy(read_open_questions, files.open_questions)))
    return tasks


def _lazy(read: Reader, path: Path) -> Callable[[], QaSet]:
    return cache(partial(read, path))


TASKS: dict[str, Task] = make_tasks(TaskFiles())
"""The tasks that need no file."""
