"""bAbI stories scattered over a long text. Source: BABILong (Kuratov et al. 2406.10149); world and wording are ours."""

from __future__ import annotations

import random
from dataclasses import dataclass

from kvloom.eval.corpus import without
from kvloom.eval.task import Sample, Turn
from kvloom.eval.tasks import babi_reader
from kvloom.eval.tasks.babi_stories import KINDS, Story, with_other_people
from kvloom.eval.tasks.babi_world import GIVERS, PEOPLE, ROOMS, THINGS
from kvloom.eval.tasks.base import Draft, Room, SeededTask, ask
from kvloom.eval.tasks.filler import Haystack, Prose, insert, random_depths
from kvloom.eval.tasks.scoring import only_label

_FILTERED = frozenset((*PEOPLE, *GIVERS, *ROOMS, *THINGS))
_MAX_NEW_TOKENS = 16
_EXAMPLES = 2
_START = "The text begins here.\n\n"


@dataclass(frozen=True, slots=True)
class StoryInText(SeededTask):
    """One of qa1 to qa10. Facts keep their order; their depths are drawn uniformly."""

    kind: str
    prose: Prose

    def compose(self, rng: random.Random, index: int, room: Room) -> Draft:
        kind = KINDS[self.kind]
        examples = "".join(_show(with_other_people(kind.tell(rng))) for _ in range(_EXAMPLES))
        story = kind.tell(rng)
        opening = (
            "The text below hides facts about people in a house. Use only these facts. Later facts count. "
            f"{kind.instruction}\n\n{examples}{_START}"
        )
        hay = Haystack.draw(without(self.prose(), _FILTERED), rng)
        depths = random_depths(rng, len(story.facts))
        turn = Turn(question=ask(story.question), answers=(story.answer,), max_new_tokens=_MAX_NEW_TOKENS)

        def draw(words: int) -> Draft:
            text = " ".join(insert(hay.sentences(words), list(zip(depths, story.facts, strict=True))))
            return Draft(
                context=f"{opening}{text}",
                turns=(turn,),
                answer_prefix="Answer:",
                facts={"depths": tuple(depths), "facts": story.facts},
            )

        return room.fit(draw)

    def score(self, sample: Sample, turn: int, output: str) -> float:
        asked = sample.turns[turn]
        return only_label(output, asked.question, asked.answers[0], KINDS[self.kind].labels)

    def solve(self, sample: Sample, turn: int) -> str:
        text = sample.context.partition(_START)[2]
        question = sample.turns[turn].question.strip().removeprefix("Question: ")
        return babi_reader.answer(babi_reader.read(text), question)


def _show(story: Story) -> str:
    return f"Example: {' '.join(story.facts)}{ask(story.question)}Answer: {story.answer.replace(',', ', ')}\n\n"
