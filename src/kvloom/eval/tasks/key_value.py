"""Key-value retrieval from a JSON object of random UUIDs. Source: Liu et al. 2307.03172; InfiniteBench, KV."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass

from kvloom.eval.task import Sample, Turn
from kvloom.eval.tasks.base import Draft, Room, SeededTask, ask, spread
from kvloom.eval.tasks.scoring import share_contained
from kvloom.eval.tasks.words import random_uuid

_MAX_NEW_TOKENS = 64


@dataclass(frozen=True, slots=True)
class KeyValue(SeededTask):
    """The position of the pair asked for is spread evenly over the samples."""

    def compose(self, rng: random.Random, index: int, room: Room) -> Draft:
        key, value = random_uuid(rng), random_uuid(rng)
        seed, depth = rng.getrandbits(64), spread(index)
        turn = Turn(
            question=ask(f"Which value does the key {key} have in the JSON object above?"),
            answers=(value,),
            max_new_tokens=_MAX_NEW_TOKENS,
        )

        def draw(count: int, padding: str = "") -> Draft:
            others = random.Random(seed)
            pairs = [(random_uuid(others), random_uuid(others)) for _ in range(count)]
            place = int(depth * count)  # never the last pair: the end of a text is easily kept
            pairs.insert(place, (key, value))
            return Draft(
                context=f"Remember the values in this JSON object.\n\n{json.dumps(dict(pairs), indent=0)}{padding}",
                turns=(turn,),
                answer_prefix=f'Answer:\n"{key}":',
                facts={"depth": depth, "place": place, "pairs": count + 1},
            )

        return room.fit_coarse(draw)

    def score(self, sample: Sample, turn: int, output: str) -> float:
        return share_contained(output, sample.turns[turn].answers)

    def solve(self, sample: Sample, turn: int) -> str:
        key = re.search(r"key (\S+) have", sample.turns[turn].question)
        block = re.search(r"\{.*\}", sample.context, re.DOTALL)
        pairs: dict[str, str] = json.loads(block[0]) if block else {}
        return pairs.get(key[1], "") if key else ""
