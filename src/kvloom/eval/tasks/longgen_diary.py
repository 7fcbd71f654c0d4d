"""Long constrained generation: most of the length is output. Source: LongGenBench (Wu et al. 2409.02076).

Chores and wording are our own. `longgen_answers.py` is based on another benchmark of the same name.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from kvloom.eval.task import Sample, Turn
from kvloom.eval.tasks.base import Draft, Room, SeededTask
from kvloom.eval.tasks.scoring import demands_met, units_of

_MARKER = "### Week"
_TOKENS_PER_WEEK = 40
_FEWEST_WEEKS = 10
_SINGLE = 5
_CHORES = (
    "plant garlic",
    "prune the roses",
    "sharpen the spade",
    "repair the fence",
    "sow carrots",
    "water the ferns",
    "paint the bench",
    "turn the compost",
    "feed the hens",
    "clean the pond",
    "tie up the beans",
    "harvest plums",
    "mow the lawn",
    "order bulbs",
    "trim the hedge",
    "oil the gate",
    "sweep the path",
    "pick the currants",
    "thin the lettuce",
    "mulch the beds",
)


@dataclass(frozen=True, slots=True)
class Diary(SeededTask):
    """A weekly diary with five single demands, one for a range of weeks and one periodic. Score: STIC-2.

    It has as many weeks as fit at 40 tokens each. ``answers`` lists every demand as ``week: phrase``.
    """

    def compose(self, rng: random.Random, index: int, room: Room) -> Draft:
        chores = rng.sample(_CHORES, _SINGLE + 2)
        seed = rng.getrandbits(64)

        def draw(more: int) -> Draft:
            weeks = _FEWEST_WEEKS + more
            demands = _demands(chores, weeks, random.Random(seed))
            turn = Turn(
                question=f"\n\nThe diary, all {weeks} weeks in order:\n\n",
                answers=tuple(f"{week}: {phrase}" for week, phrases in _by_week(demands, weeks) for phrase in phrases),
                max_new_tokens=_TOKENS_PER_WEEK * weeks,
            )
            return Draft(
                context=_order_text(demands, weeks),
                turns=(turn,),
                answer_prefix=f"{_MARKER} 1\n",
                facts={"weeks": weeks, "demands": tuple(demand.text for demand in demands)},
            )

        return room.fit_output(draw)

    def score(self, sample: Sample, turn: int, output: str) -> float:
        demands: dict[int, list[str]] = {}
        for answer in sample.turns[turn].answers:
            week, _, phrase = answer.partition(": ")
            demands.setdefault(int(week), []).append(phrase)
        return demands_met(units_of(sample.answer_prefix + output, _MARKER), demands)

    def solve(self, sample: Sample, turn: int) -> str:
        asked = re.search(r"all (\d+) weeks", sample.turns[turn].question)
        demands = [found for line in sample.context.splitlines() if (found := _read_demand(line))]
        if not asked or not demands:
            return ""
        weeks = (f"{_MARKER} {week}\nWe {', '.join(tasks)}." for week, tasks in _by_week(demands, int(asked[1])))
        return "\n".join(weeks).removeprefix(sample.answer_prefix)


@dataclass(frozen=True, slots=True)
class _Demand:
    """``phrase`` must occur in weeks ``first``, ``first + every``, ... up to ``last``."""

    phrase: str
    first: int
    last: int
    every: int

    @property
    def text(self) -> str:
        if self.every > 1:
            return f'- From week {self.first} on, every {self.every} weeks, write "{self.phrase}".'
        if self.first < self.last:
            return f'- In each of the weeks {self.first} to {self.last}, write "{self.phrase}".'
        return f'- In week {self.first}, write "{self.phrase}".'


_FORMS = (
    re.compile(r'- From week (?P<first>\d+) on, every (?P<every>\d+) weeks, write "(?P<phrase>.*)"\.'),
    re.compile(r'- In each of the weeks (?P<first>\d+) to (?P<last>\d+), write "(?P<phrase>.*)"\.'),
    re.compile(r'- In week (?P<first>\d+), write "(?P<phrase>.*)"\.'),
)
_NO_END = 10**9


def _demands(chores: Sequence[str], weeks: int, rng: random.Random) -> list[_Demand]:
    *single, ranged, periodic = chores
    chosen = sorted(rng.sample(range(1, weeks + 1), len(single)))
    demands = [_Demand(chore, week, week, 1) for chore, week in zip(single, chosen, strict=True)]
    start, length = rng.randint(2, weeks - 6), rng.randint(3, 6)
    every = rng.randint(3, 7)
    return [
        *demands,
        _Demand(ranged, start, start + length - 1, 1),
        _Demand(periodic, rng.randint(1, 4), _NO_END, every),
    ]


def _by_week(demands: Sequence[_Demand], weeks: int) -> list[tuple[int, list[str]]]:
    """Phrases due in each week, including weeks without any."""
    due: dict[int, list[str]] = {week: [] for week in range(1, weeks + 1)}
    for demand in demands:
        for week in range(demand.first, min(demand.last, weeks) + 1, demand.every):
            due[week].append(demand.phrase)
    return list(due.items())


def _order_text(demands: Sequence[_Demand], weeks: int) -> str:
    lines = "\n".join(demand.text for demand in demands)
    return (
        f"Write the diary of a gardener, {weeks} weeks long. Each week opens with its heading, such as `{_MARKER} 7`, "
        f"and has one or two sentences. Follow these demands to the letter:\n{lines}"
    )


def _read_demand(line: str) -> _Demand | None:
    for form in _FORMS:
        found = form.fullmatch(line)
        if found:
            parts = found.groupdict()
            first, periodic = int(parts["first"]), "every" in parts
            last = _NO_END if periodic else int(parts.get("last", first))
            return _Demand(parts["phrase"], first, last, int(parts["every"]) if periodic else 1)
    return None
