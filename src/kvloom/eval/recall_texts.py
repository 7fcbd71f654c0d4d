"""Texts whose tokens depend on their context: names, numbers and quotes that are stated in prose, and then repeated.

The facts in the second half can only be predicted from the first. Sentences are our own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

from kvloom.errors import ConfigError
from kvloom.eval.corpus import essays
from kvloom.eval.fidelity import Passage
from kvloom.eval.subject import Subject
from kvloom.eval.tasks.base import largest
from kvloom.eval.tasks.filler import Haystack, insert
from kvloom.eval.tasks.words import NAMES, NOUNS, digits, pair

_TOKENS_PER_FACT = 64
_FEWEST_FACTS = 3
_FORMS: tuple[Callable[[str, random.Random], str], ...] = (
    lambda name, rng: f"The membership number of {name} is {digits(rng, 7)}.",
    lambda name, rng: f"On the door of {name} one reads {pair(rng)}.",
    lambda name, rng: f'"{_quote(rng)}," wrote {name} in the guest book.',
)


def recall_passages(subject: Subject, size: int, count: int, seed: int = 0) -> list[Passage]:
    """``count`` texts of at most ``size`` tokens. Raises ConfigError when three facts do not fit.

    The context is prose with evenly spaced facts, and some prose after the last. They are repeated in another order.
    """
    return [_passage(subject, size, random.Random(f"recall/{seed}/{n}")) for n in range(count)]


def _passage(subject: Subject, size: int, rng: random.Random) -> Passage:
    names, hay = rng.sample(NAMES, len(NAMES)), Haystack.draw(essays(), rng)
    known = [
        _FORMS[n % len(_FORMS)](name, rng)
        for n, name in enumerate(names[: max(_FEWEST_FACTS, size // _TOKENS_PER_FACT)])
    ]
    for number in range(len(known), _FEWEST_FACTS - 1, -1):
        facts = known[:number]
        told = partial(_told, hay, facts)
        again = " Once more, in another order: " + " ".join(rng.sample(facts, number))
        room = size - subject.text_length(again) - 1  # one for the model's own first token
        at_least = subject.text_length(told(0))
        if 3 * at_least <= 2 * room:
            words = largest(lambda n: subject.text_length(told(n)), room, at_least)  # noqa: B023
            context = subject.tokenizer.encode(told(words))
            return Passage([*context, *subject.tokenizer.encode(again, add_special_tokens=False)], len(context))
    raise ConfigError(f"{_FEWEST_FACTS} facts, each stated twice in prose, do not fit {size} tokens")


def _told(hay: Haystack, facts: Sequence[str], words: int) -> str:
    pieces = [(n / (len(facts) - 1), fact) for n, fact in enumerate(facts)]
    return " ".join(insert(hay.sentences(words), pieces))


def _quote(rng: random.Random) -> str:
    words = rng.sample(NOUNS, 5)
    return f"No {words[0]} without {words[1]}, no {words[2]} without {words[3]}"
