"""Generate the corpus from its grammar: ``python -m kvloom.eval.corpus.write``. Run it after changing the grammar.

The text is shipped instead of being generated on the fly, so that samples stay the same even if a later version of
Python draws other numbers from a seed.
"""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
GRAMMAR = FOLDER / "grammar.txt"
ARCHIVE = FOLDER / "annals.txt.gz"

SEED = 20_261_122
SIZE = 420_000
"""Minimum number of characters to write."""

_BOUND = ("person", "other", "place", "town", "trade")
"""Slots that keep their value for a whole paragraph."""

_ARTICLE = re.compile(r"^(a|an|the) ")


@dataclass(frozen=True, slots=True)
class Grammar:
    """``slots``: fillers by slot name. ``topics``: sentences by topic."""

    slots: Mapping[str, tuple[str, ...]]
    topics: Mapping[str, tuple[str, ...]]


def read_grammar(text: str) -> Grammar:
    """Parse the sections of the grammar file."""
    sections: dict[str, dict[str, tuple[str, ...]]] = {"slot": {}, "topic": {}}
    for heading, body in re.findall(r"^\[(\w+ \w+)\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL):
        kind, name = heading.split()
        parts = body.split(";") if kind == "slot" else body.splitlines()
        sections[kind][name] = tuple(part.strip() for part in parts if part.strip())
    return Grammar(sections["slot"], sections["topic"])


def write_text(grammar: Grammar, size: int = SIZE, seed: int = SEED) -> str:
    """Paragraphs, one per line, with at least ``size`` characters in total. No sentence occurs twice."""
    rng = random.Random(seed)
    seen: set[str] = set()
    paragraphs: list[str] = []
    written = 0
    while written < size:
        sentences = [s for s in _paragraph(grammar, rng) if s not in seen]
        seen.update(sentences)
        paragraphs.append(" ".join(sentences))
        written += len(paragraphs[-1]) + 1
    return "\n".join(paragraphs) + "\n"


def _paragraph(grammar: Grammar, rng: random.Random) -> list[str]:
    person, other = rng.sample(grammar.slots["person"], 2)
    bound = {name: rng.choice(grammar.slots[name]) for name in _BOUND if name in grammar.slots}
    bound |= {"person": person, "other": other}
    topic = rng.choice(sorted(grammar.topics))
    templates = rng.sample(grammar.topics[topic], rng.randint(5, 8))
    return [_expand(template, grammar, bound, rng) for template in templates]


def _expand(template: str, grammar: Grammar, bound: Mapping[str, str], rng: random.Random) -> str:
    def fill(match: re.Match[str]) -> str:
        name, _, form = match[1].partition("_")
        value = bound[name] if name in bound else rng.choice(grammar.slots[name])
        if form == "the":
            return _ARTICLE.sub("the ", value)
        return value[0].upper() + value[1:] if form == "cap" else value

    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", re.sub(r"\{(\w+)\}", fill, template))
    return text[0].upper() + text[1:]


def main() -> None:
    text = write_text(read_grammar(GRAMMAR.read_text(encoding="utf-8")))
    ARCHIVE.write_bytes(gzip.compress(text.encode("utf-8"), 9, mtime=0))
    print(f"{ARCHIVE.name}: {len(text):,} characters")


if __name__ == "__main__":
    main()
