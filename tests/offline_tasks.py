"""All offline tasks, their question files written on the spot, and a tokenizer stand-in."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

from kvloom.eval.task import Sample, Task
from kvloom.eval.tasks import TaskFiles, make_tasks
from kvloom.eval.tasks.words import ADJECTIVES, NAMES, NOUNS


def word_count(text: str) -> int:
    """A cheap tokenizer: words and punctuation marks."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def write_files(folder: Path, count: int = 60) -> TaskFiles:
    """A SQuAD, a HotpotQA and a Lost in the Middle file of ``count`` invented questions each."""
    rng = random.Random(5)
    rows = [_row(rng, n) for n in range(count)]
    squad = [
        {
            "title": title,
            "paragraphs": [{"context": text, "qas": [{"question": question, "answers": [{"text": answer}]}]}],
        }
        for question, answer, title, text in rows
    ]
    hotpot = [
        {
            "question": question,
            "answer": answer,
            "supporting_facts": [[title, 0]],
            "context": [[title, [text]], [f"{title} again", ["Nothing of interest."]]],
        }
        for question, answer, title, text in rows
    ]
    lines = [
        {"question": question, "answers": [answer], "ctxs": [{"title": title, "text": text, "isgold": True}]}
        for question, answer, title, text in rows
    ]
    (folder / "squad.json").write_text(json.dumps({"data": squad}))
    (folder / "hotpot.json").write_text(json.dumps(hotpot))
    (folder / "nq.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return TaskFiles(squad=folder / "squad.json", hotpot=folder / "hotpot.json", open_questions=folder / "nq.jsonl")


def _row(rng: random.Random, number: int) -> tuple[str, str, str, str]:
    answer = f"{rng.choice(NAMES)} {number}"
    thing = f"{ADJECTIVES[number]} {NOUNS[number]}"
    text = f"The {thing} was found by {answer}. " + " ".join(rng.choices(NOUNS, k=150)) + "."
    return f"who found the {thing}", answer, f"Report {number}", text


def samples_of(task: Task, length: int, count: int, seed: int = 1) -> list[Sample]:
    return list(task.samples(length=length, count=count, seed=seed, text_length=word_count))


def names() -> list[str]:
    """Names of all tasks, those with files included."""
    placeholder = Path("unread")
    return list(make_tasks(TaskFiles(squad=placeholder, hotpot=placeholder, open_questions=placeholder)))
