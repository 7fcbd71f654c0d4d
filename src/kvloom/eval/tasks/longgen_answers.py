"""Many questions answered in one output. Source: LongGenBench (Liu et al. 2410.04199); the problems are our own."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from kvloom.eval.task import Sample, Turn
from kvloom.eval.tasks.base import Draft, Room, SeededTask
from kvloom.eval.tasks.scoring import same_numbers

_SHOWN = 4
_TOKENS_PER_ANSWER = 10
_GOODS = ("lamps", "kettles", "bricks", "candles", "baskets", "ropes", "bottles", "chairs", "mirrors", "brushes")


@dataclass(frozen=True, slots=True)
class ManyAnswers(SeededTask):
    """As many small arithmetic problems as fit, answered in one numbered list, after a worked example of four."""

    def compose(self, rng: random.Random, index: int, room: Room) -> Draft:
        seed = rng.getrandbits(64)

        def draw(more: int) -> Draft:
            drawn = random.Random(seed)
            shown, asked = [_problem(drawn) for _ in range(_SHOWN)], [_problem(drawn) for _ in range(_SHOWN + more)]
            answers = tuple(str(answer) for _, answer in asked)
            turn = Turn(
                question="\n\nAll answers, in order:\n",
                answers=answers,
                max_new_tokens=_TOKENS_PER_ANSWER * len(answers),
            )
            example = "\n".join(f"Answer {number}: {answer}" for number, (_, answer) in enumerate(shown, 1))
            return Draft(
                context=f"Here are {_SHOWN} questions and all answers.\n\n{_numbered(shown)}"
                f"{turn.question}{example}\n\n"
                f"Here are {len(asked)} more questions.\n\n{_numbered(asked)}",
                turns=(turn,),
                answer_prefix="Answer 1:",
                facts={"questions": len(asked)},
            )

        return room.fit_output(draw)

    def score(self, sample: Sample, turn: int, output: str) -> float:
        return same_numbers(sample.answer_prefix + output, sample.turns[turn].answers)

    def solve(self, sample: Sample, turn: int) -> str:
        text = sample.context.rpartition("more questions.")[2]
        problems = re.findall(r"^Question (\d+): A shop has (\d+) \w+ and (gets|loses) (\d+)", text, re.MULTILINE)
        lines = (f"Answer {number}: {_result(int(have), verb, int(change))}" for number, have, verb, change in problems)
        return "\n".join(lines).removeprefix(sample.answer_prefix)


def _problem(rng: random.Random) -> tuple[str, int]:
    things, verb = rng.choice(_GOODS), rng.choice(["gets", "loses"])
    have, change = rng.randint(20, 60), rng.randint(2, 19)
    text = f"A shop has {have} {things} and {verb} {change}. How many {things} does it have now?"
    return text, _result(have, verb, change)


def _result(have: int, verb: str, change: int) -> int:
    return have + change if verb == "gets" else have - change


def _numbered(problems: Sequence[tuple[str, int]]) -> str:
    return "\n".join(f"Question {number}: {text}" for number, (text, _) in enumerate(problems, 1))
