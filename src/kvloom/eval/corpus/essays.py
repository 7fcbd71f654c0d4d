"""Prose with the statistics of English, generated from a lexicon: a compressor saves as much on it as on real essays.

The sentences are grammatical but nearly meaningless. Words follow Zipf's law, belong to the themes of their paragraph
and recur within it; sequences of six words hardly ever repeat. A text made from few templates, such as `annals`, is
half as dense, and favours policies that drop repetition.

It is generated on the fly, from `random.Random.random` only, whose sequence Python promises not to change.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LEXICON = Path(__file__).with_name("lexicon.txt")

SEED = 20_261_128
SENTENCES = 6000
_THEMES_AT_ONCE = 2
_GENERAL = 0.3
"""Fraction of nouns and adjectives that belong to no theme."""
_FAMILIAR = 0.4
"""Fraction of nouns that repeat a recent one."""


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Words by section, most frequent first. ``past``: past tense of irregular verbs."""

    sections: Mapping[str, tuple[str, ...]]
    past: Mapping[str, str]

    @property
    def themes(self) -> tuple[str, ...]:
        return tuple(name.split()[1] for name in self.sections if name.startswith("noun ") and name != "noun general")

    @property
    def words(self) -> tuple[str, ...]:
        """Nouns, adjectives and verbs, without duplicates."""
        kept = (words for name, words in self.sections.items() if name.split()[0] in ("noun", "adjective", "verb"))
        return tuple(dict.fromkeys(word for words in kept for word in words))


def read_lexicon(text: str) -> Lexicon:
    """Parse the sections of a lexicon file."""
    sections: dict[str, tuple[str, ...]] = {}
    past: dict[str, str] = {}
    for name, body in re.findall(r"^\[([\w ]+)\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL):
        entries = [entry.partition(":") for entry in body.split()]
        sections[name] = tuple(word for word, _, _ in entries)
        past |= {word: irregular for word, _, irregular in entries if irregular}
    return Lexicon(sections, past)


@cache
def lexicon() -> Lexicon:
    """The lexicon that ships with kvloom."""
    return read_lexicon(LEXICON.read_text(encoding="utf-8"))


class Writer:
    """Writes sentence after sentence. In the code, a clause has no initial capital and no full stop yet."""

    def __init__(self, lexicon: Lexicon, seed: int) -> None:
        self._lexicon = lexicon
        self._random = random.Random(seed).random
        self._weights: dict[str, list[float]] = {}
        self._familiar: deque[str] = deque(maxlen=14)
        self._cast = deque([self._word("surname") for _ in range(4)], maxlen=4)
        self._themes: list[str] = []

    def paragraph(self) -> list[str]:
        """Some sentences on two themes, one of them from the previous paragraph."""
        chosen = self._of(self._lexicon.themes)
        self._themes = [*self._themes[-_THEMES_AT_ONCE + 1 :], chosen]
        if self._chance(0.3):
            self._cast.append(self._word("surname"))
        return [self.sentence() for _ in range(4 + int(5 * self._random()))]

    def sentence(self) -> str:
        text = self._weighted(_SENTENCES)(self)
        text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
        return text[0].upper() + text[1:]

    # -- sentences -------------------------------------------------------------------------------------------------

    def _statement(self) -> str:
        return f"{self._clause()}."

    def _opened(self) -> str:
        opening = self._word("adverb opening") if self._chance(0.6) else self._place()
        return f"{opening}, {self._clause()}."

    def _joined(self) -> str:
        return f"{self._clause()}, {self._of(('and', 'but', 'and', 'so', 'yet', 'or'))} {self._clause()}."

    def _conditional(self) -> str:
        conjunction = self._word("conjunction")
        if self._chance(0.5):
            return f"{conjunction} {self._clause()}, {self._clause()}."
        return f"{self._clause()} {conjunction} {self._clause()}."

    def _there(self) -> str:
        there = self._of(("there was a", "there was no", "here was a", "there is a"))
        return f"{there} {self._described()} {self._place()}."

    def _judged(self) -> str:
        infinitive = f"to {self._word('verb transitive')} {self._object()}"
        return f"it {self._of(('was', 'is', 'seemed', 'may be'))} {self._adjective()} {infinitive}."

    def _reported(self) -> str:
        return f"{self._subject()} {self._past('verb saying')} that {self._clause()}."

    def _asked(self) -> str:
        asked = f"{self._subject()} {self._word('verb transitive')} {self._object()}"
        return f"{self._of(('why', 'how', 'when', 'where'))} {self._of(('did', 'could', 'should', 'would'))} {asked}?"

    def _quoted(self) -> str:
        said, name = self._clause(), self._of(tuple(self._cast))
        return f'"{said[0].upper()}{said[1:]}," {self._of(("said", "said", "replied", "cried"))} {name}.'

    def _named(self) -> str:
        what = f"{self._a()} that {self._past('verb transitive')} {self._object()}"
        return f"{self._a()} is {what}, {self._of(('not', 'rather than', 'and also', 'or'))} {self._a()}."

    def _listed(self) -> str:
        first, second, third = (self._definite() for _ in range(3))
        return f"{first}, {second} and {third} {self._of(('were', 'became', 'seemed'))} {self._adjective()}."

    # -- parts -----------------------------------------------------------------------------------------------------

    def _clause(self) -> str:
        return f"{self._subject()} {self._predicate()}"

    def _predicate(self) -> str:
        draw = self._random()
        if draw < 0.4:
            said = f"{self._past('verb transitive')} {self._object()}"
        elif draw < 0.6:
            said = self._past("verb intransitive") + (f" {self._word('adverb manner')}" if self._chance(0.4) else "")
        elif draw < 0.75:
            said = f"{self._modal()} {self._word('verb transitive')} {self._object()}"
        elif draw < 0.87:
            said = f"was {self._of(('', '', 'very ', 'too ', 'quite ', 'not '))}{self._adjective()}"
        else:
            said = f"{self._of(('began', 'tried', 'wanted', 'used', 'hoped'))} to {self._word('verb intransitive')}"
        return said + (f" {self._place()}" if self._chance(0.4) else "")

    def _subject(self) -> str:
        draw = self._random()
        if draw < 0.3:
            return self._of(("he", "she", "they", "it", "we", "I", "he", "nobody", "everyone", "people"))
        return self._of(tuple(self._cast)) if draw < 0.45 else self._phrase()

    def _object(self) -> str:
        return self._of(("it", "them", "him", "her", "us")) if self._chance(0.12) else self._phrase()

    def _phrase(self) -> str:
        draw = self._random()
        if draw < 0.45:
            phrase = self._definite()
        elif draw < 0.65:
            phrase = self._a()
        elif draw < 0.8:
            phrase = f"{self._of(('his', 'her', 'their', 'our', 'its', 'my'))} {self._described()}"
        elif draw < 0.93:
            phrase = f"{self._of(('', 'some ', 'many ', 'most ', 'the ', 'these '))}{_plural(self._noun())}"
        else:
            phrase = f"{self._word('number')} {_plural(self._noun())}"
        if self._chance(0.12):
            return f"{phrase} of {self._definite()}"
        return f"{phrase} that {self._predicate()}" if self._chance(0.05) else phrase

    def _definite(self) -> str:
        return f"the {self._described()}"

    def _a(self) -> str:
        return f"a {self._described()}"

    def _described(self) -> str:
        return f"{self._adjective()} {self._noun()}" if self._chance(0.35) else self._noun()

    def _place(self) -> str:
        return f"{self._word('preposition')} {self._phrase()}"

    def _modal(self) -> str:
        return self._of(("could", "would", "had to", "did not", "might", "should", "can", "will", "could not", "must"))

    def _noun(self) -> str:
        if self._familiar and self._chance(_FAMILIAR):
            return self._of(tuple(self._familiar))
        noun = self._word("noun general" if self._chance(_GENERAL) else f"noun {self._of(self._themes)}")
        self._familiar.append(noun)
        return noun

    def _adjective(self) -> str:
        general = self._chance(2 * _GENERAL)
        return self._word("adjective general" if general else f"adjective {self._of(self._themes)}")

    def _past(self, section: str) -> str:
        verb = self._word(section)
        return self._lexicon.past.get(verb) or _past(verb)

    # -- draws -----------------------------------------------------------------------------------------------------

    def _chance(self, share: float) -> bool:
        return self._random() < share

    def _of(self, options: Sequence[str]) -> str:
        return options[int(self._random() * len(options))]

    def _word(self, section: str) -> str:
        """A word of a section by Zipf's law: the earlier in the list, the more frequent."""
        words = self._lexicon.sections[section]
        if section not in self._weights:
            total, sums = 0.0, []
            for place in range(len(words)):
                total += 1 / (place + 8)
                sums.append(total)
            self._weights[section] = sums
        sums = self._weights[section]
        return words[bisect_right(sums, self._random() * sums[-1])]

    def _weighted(self, options: Sequence[tuple[float, Form]]) -> Form:
        draw = self._random() * sum(weight for weight, _ in options)
        for weight, form in options:
            draw -= weight
            if draw < 0:
                return form
        return options[0][1]


Form = Callable[[Writer], str]

_SENTENCES: tuple[tuple[float, Form], ...] = (
    (26, Writer._statement),
    (13, Writer._opened),
    (16, Writer._joined),
    (14, Writer._conditional),
    (5, Writer._there),
    (5, Writer._judged),
    (8, Writer._reported),
    (4, Writer._asked),
    (4, Writer._quoted),
    (2, Writer._named),
    (3, Writer._listed),
)


def _plural(noun: str) -> str:
    irregular = {"man": "men", "child": "children", "foot": "feet", "tooth": "teeth", "mouse": "mice", "wife": "wives"}
    if noun in irregular:
        return irregular[noun]
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return f"{noun}es"
    return re.sub(r"(?<![aeiou])y$", "ie", noun) + "s"


def _past(verb: str) -> str:
    if verb.endswith("e"):
        return f"{verb}d"
    if re.search(r"[^aeiou]y$", verb):
        return f"{verb[:-1]}ied"
    if re.search(r"^[^aeiou]*[aeiou][bdgklmnprt]$", verb):  # one short vowel: drop, dropped
        return f"{verb}{verb[-1]}ed"
    return f"{verb}ed"


def write_sentences(lexicon: Lexicon, count: int = SENTENCES, seed: int = SEED) -> tuple[str, ...]:
    """At least ``count`` distinct sentences, in paragraphs on one or two themes."""
    writer = Writer(lexicon, seed)
    seen: dict[str, None] = {}
    while len(seen) < count:
        seen |= dict.fromkeys(writer.paragraph())
    return tuple(seen)
