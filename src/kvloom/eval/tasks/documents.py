"""Questions about many documents, few of which are relevant. Sources: RULER, qa_1 and qa_2; Liu et al. 2307.03172.

The questions come from a file given by the user; see `qa_files.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from kvloom.eval.task import Sample, Turn, document_id
from kvloom.eval.tasks.base import Draft, Room, SeededTask
from kvloom.eval.tasks.qa_files import Item, Passage, QaSet
from kvloom.eval.tasks.scoring import any_contained, first_line_contains, normalized
from kvloom.eval.tasks.wording import OWN_WORDS, Asking, Wording

GOLD_POSITIONS = (0.0, 0.5, 1.0, 0.25, 0.75)
"""Positions of the gold documents in successive samples, for tasks that control it: 0 is first, 1 is last."""

_MAX_NEW_TOKENS = 32


@dataclass(frozen=True, slots=True)
class _Documents:
    """``gold`` among a given number of words of ``others``; the last of the others may be truncated."""

    gold: tuple[Passage, ...]
    others: tuple[Passage, ...]
    seed: int
    position: float | None

    def words(self) -> int:
        return sum(len(passage.text.split()) for passage in self.others)

    def take(self, words: int) -> list[Passage]:
        taken: list[Passage] = []
        for passage in self.others:
            if words <= 0:
                break
            text = passage.text.split()
            taken.append(Passage(passage.title, passage.text if len(text) <= words else " ".join(text[:words])))
            words -= len(text)
        if self.position is not None:
            place = round(self.position * len(taken))
            return [*taken[:place], *self.gold, *taken[place:]]
        for passage in self.gold:
            taken.insert(random.Random(f"{self.seed}/{passage}").randint(0, len(taken)), passage)
        return taken


@dataclass(frozen=True, slots=True)
class DocumentQa(SeededTask):
    """``positions``: those of the gold documents in successive samples; None places them at random."""

    load: Callable[[], QaSet]
    metric: Callable[[str, tuple[str, ...]], float]
    positions: tuple[float, ...] | None = None
    asking: Asking = OWN_WORDS.documents

    def compose(self, rng: random.Random, index: int, room: Room) -> Draft:
        questions = self.load()
        item = questions.items[rng.randrange(len(questions.items))]
        position = self.positions[index % len(self.positions)] if self.positions else None
        chosen = _Documents(item.gold, _others(item, questions, rng, room), rng.getrandbits(64), position)
        turn = Turn(question=self._ask(item), answers=tuple(item.answers), max_new_tokens=_MAX_NEW_TOKENS)

        def draw(words: int) -> Draft:
            documents = chosen.take(words)
            shown = "\n\n".join(_show(number, passage) for number, passage in enumerate(documents, 1))
            return Draft(
                context=self.asking.opening + shown,
                turns=(turn,),
                answer_prefix=self.asking.prefix,
                facts={"gold": tuple(n for n, p in enumerate(documents, 1) if p in item.gold), "position": position},
                document=document_id(*(passage.text for passage in item.gold)),
            )

        return room.fit(draw, most=chosen.words())

    def score(self, sample: Sample, turn: int, output: str) -> float:
        return self.metric(output, sample.turns[turn].answers)

    def solve(self, sample: Sample, turn: int) -> str:
        """The file's answer, if the context contains all passages that the file marks as gold for this question."""
        asked = sample.turns[turn].question
        for item in self.load().items:
            if asked == self._ask(item) and all(gold.text in sample.context for gold in item.gold):
                return item.answers[0]
        return ""

    def _ask(self, item: Item) -> str:
        return self.asking.question.replace("{question}", item.question)


def _show(number: int, passage: Passage) -> str:
    title = f" (Title: {passage.title})" if passage.title else ""
    return f"Document {number}{title}:\n{passage.text}"


def _others(item: Item, questions: QaSet, rng: random.Random, room: Room) -> tuple[Passage, ...]:
    """Passages without an answer, in random order: more than fit, but not all of a large file."""
    unwanted = [answer for answer in map(normalized, item.answers) if answer not in ("", "yes", "no")]
    others: list[Passage] = []
    words = 0
    for passage in rng.sample(questions.passages, len(questions.passages)):
        text = normalized(f"{passage.title} {passage.text}")
        if passage not in item.gold and not any(answer in text for answer in unwanted):
            others.append(passage)
            words += len(passage.text.split())
        if words > room.length:
            break
    return tuple(others)


def ruler_qa(name: str, load: Callable[[], QaSet], words: Wording) -> DocumentQa:
    """qa_1 (SQuAD) or qa_2 (HotpotQA): gold documents at random; correct if any accepted answer is contained."""
    return DocumentQa(name, "ruler", load, any_contained, asking=words.documents)


def multi_document_qa(load: Callable[[], QaSet], positions: tuple[float, ...] = GOLD_POSITIONS) -> DocumentQa:
    """The gold document at a controlled position; the first line of the output is scored."""
    return DocumentQa("multidoc_qa", "lost_in_the_middle", load, first_line_contains, positions)
