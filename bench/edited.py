"""Contexts that are edited, what is asked about them, and what an engine says of answers that are dictated to it.

[ system )[ notes, facts )[ tool result, secret )[ notes, facts )[ question )
                           deleted
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.drive import ModelEngines
from bench.text import real_text
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.edits import Edit
from kvloom.engine.engine import Engine
from kvloom.engine.outputs import RequestMetrics
from kvloom.engine.params import SamplingParams
from kvloom.engine.sampling import Logits, Sampler

SYSTEM = "You answer questions about notes."
SYSTEMS = (
    "You answer briefly.",
    "You are a librarian who explains patiently what notes say.",
    "You translate notes into simple words for children.",
    "You check notes for mistakes and list them.",
    "You are a journalist. Say only what the notes support.",
    "You write minutes of meetings from notes.",
    "You are an engineer who reviews the notes of others.",
    "You summarize notes for somebody who has no time.",
)
COLOURS = ("red", "green", "blue", "black", "white", "yellow", "purple", "orange")
"""What may be the secret."""

_THINGS = ("barn", "bridge", "cellar", "chapel", "garden", "harbour", "kitchen", "library", "mill", "orchard", "tower")
_FACT = " The magic number for the {thing} is {number}. "
_SECRET = " The colour of the door is {colour}. "


class Question(NamedTuple):
    """``text`` comes after the context, and ends where the answer begins. ``tokens``: of the answer."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """``tokens``, of which those at ``tool`` are deleted. ``questions``: about the rest."""

    tokens: list[int]
    tool: tuple[int, int]
    questions: tuple[Question, ...]


OPEN = Question("What are the notes about?", 24)
SECRET = Question("What is the colour of the door?\nAnswer: The colour of the door is", 1)


def encoded(engines: ModelEngines, text: str) -> list[int]:
    return engines.loaded.tokenizer.encode(text, add_special_tokens=False)


def system(engines: ModelEngines, text: str = SYSTEM) -> list[int]:
    return encoded(engines, f"<|im_start|>system\n{text}<|im_end|>\n<|im_start|>user\n")


def asked(engines: ModelEngines, question: Question) -> list[int]:
    text, _, begun = question.text.partition("\nAnswer: ")
    return encoded(engines, f"\n\n{text}<|im_end|>\n<|im_start|>assistant\n{begun}")


def context(engines: ModelEngines, length: int, deleted: int, number: int, colour: str = COLOURS[0]) -> Context:
    """Of about ``length`` tokens, ``deleted`` of them a tool's result in the middle. Equal numbers: equal but for the
    colour.
    """
    rng = random.Random(number)
    ids = encoded(engines, real_text())
    at = rng.randrange(0, max(1, len(ids) - length))
    things = rng.sample(_THINGS, 4)
    facts = {thing: str(rng.randrange(10_000, 99_999)) for thing in things}
    said = [encoded(engines, _FACT.format(thing=thing, number=n)) for thing, n in facts.items()]
    secret = encoded(engines, _SECRET.format(colour=colour))
    half = (length - deleted) // 2
    before, tool, after = ids[at : at + half], ids[at + half : at + half + deleted], ids[at + half + deleted :][:half]
    cut = half // 3
    before = before[:cut] + said[0] + before[cut : 2 * cut] + said[1] + before[2 * cut :]
    after = after[:cut] + said[2] + after[cut : 2 * cut] + said[3] + after[2 * cut :]
    middle = len(tool) // 2
    tool = encoded(engines, "\n\nResult of the tool:\n") + tool[:middle] + secret + tool[middle:]
    start = len(system(engines)) + len(before)
    questions = [
        Question(f"What is the magic number for the {thing}?\nAnswer: The magic number for the {thing} is", 6)
        for thing in things
    ]
    tokens = system(engines) + before + tool + after
    return Context(tokens, (start, start + len(tool)), (*questions, OPEN))


def without_tool(engines: ModelEngines, it: Context, question: Question) -> Edit:
    edit = Edit.of(it.tokens, lambda text: encoded(engines, text)).delete(*it.tool)
    return edit.append(asked(engines, question))


def forks_of(engines: ModelEngines, it: Context, count: int) -> list[Edit]:
    """The whole context under other system prompts, and the open question."""
    history, asking = Edit.of(it.tokens, lambda text: encoded(engines, text)), asked(engines, OPEN)
    old = len(system(engines))
    return [history.replace(0, old, system(engines, text)).append(asking) for text in SYSTEMS[:count]]


@dataclass(slots=True)
class Dictated(Sampler):
    """Says ``words``, or what is likeliest where there are none, and keeps the logits that each token comes from."""

    words: Sequence[int] = ()
    heard: list[Logits] = field(default_factory=list)

    def draw(self, logits_V: Logits, argmax: int | None = None) -> int:
        self.heard.append(logits_V.copy())
        said = len(self.heard) - 1
        return self.words[said] if said < len(self.words) else int(logits_V.argmax())


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """``logits``: (V,) each, what every token comes from."""

    tokens: list[int]
    logits: list[Logits]
    metrics: RequestMetrics

    @property
    def ttft_s(self) -> float:
        assert self.metrics.ttft_s is not None
        return self.metrics.ttft_s


def answered(engine: Engine, prompt: Sequence[int], tokens: int, cache: CacheParams, words: Sequence[int] = ()) -> Said:
    """Raises the request's error."""
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    engine.submit("asked", list(prompt), params, cache=cache)
    sampler = Dictated(params, prompt, None, words=words)
    engine.requests["asked"].sequences[0].sampler = sampler
    said, metrics = list[int](), RequestMetrics()
    while engine.has_work:
        for update in engine.step():
            if update.error is not None:
                raise update.error
            said += [token for delta in update.deltas for token in delta.token_ids]
            metrics = update.metrics
    return Said(said, sampler.heard, metrics)


def most_held_bytes(engine: Engine, prompts: Sequence[tuple[list[int], CacheParams]], tokens: int = 8) -> int:
    """Of KV, at any time while all of these are answered together."""
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    for number, (prompt, cache) in enumerate(prompts):
        engine.submit(str(number), prompt, params, cache=cache)
    most = 0
    while engine.has_work:
        for update in engine.step():
            if update.error is not None:
                raise update.error
        most = max(most, engine.held_bytes)
    return most
