"""Prompts of RULER's tasks in two wordings of ours: a short one, and one as long as the authors'.

The length of a needle determines how many of them fit into a text, and thereby how hard a task is. In `ruler`, every
piece of text takes as many tokens as the authors', give or take one or two (with SmolLM2's tokenizer; see
`tests/slow/test_real_task_lengths.py`), so that the same number of needles, noise lines and words fills a length. The
sentences themselves are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kvloom.eval.tasks.base import ask

_KEY = re.compile(r"\b[a-z0-9]+(?:-[a-z0-9]+)+\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Prompt texts: ``opening`` before the context, the question after it, and the beginning of the answer."""

    opening: str
    question: str
    prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """One wording of RULER's tasks. Tasks fill in the placeholders in braces.

    Placeholders of ``needle`` and ``needle_of_many`` (a key with several values): kind, key, value. Of ``one`` and
    ``many`` (which is used depends on the number of answers): kind, keys, quoted.
    """

    needle: str
    needle_of_many: str
    one: Asking
    many: Asking
    last_key: str
    tracking: Asking
    common: Asking
    frequent: Asking
    documents: Asking

    def needles_in(self, text: str) -> list[tuple[str, str]]:
        """(key, value) of every needle in a text."""
        forms = {re.escape(form) for form in (self.needle, self.needle_of_many)}
        for place, pattern in (("kind", r"\w+"), ("key", r"(\S+)"), ("value", r"(\S+)")):
            forms = {form.replace(re.escape(f"{{{place}}}"), pattern) for form in forms}
        return [pair for form in forms for pair in re.findall(form, text)]

    def keys_in(self, question: str) -> list[str]:
        """Keys that a question asks for: they are the only hyphenated words in it."""
        return _KEY.findall(question)

    def listed(self, keys: list[str]) -> str:
        """
        >>> OWN_WORDS.listed(["a", "b", "c"])
        'a, b and c'
        """
        return keys[0] if len(keys) == 1 else ", ".join(keys[:-1]) + self.last_key + keys[-1]


OWN_WORDS = Wording(
    needle="The magic {kind} of {key} is {value}.",
    needle_of_many="One magic {kind} of {key} is {value}.",
    one=Asking(
        opening="A magic {kind} is hidden in the text below. Read carefully: you will be asked about it afterwards."
        "\n\n",
        question=ask("What is the magic {kind} of {quoted} in the text above?"),
        prefix="Answer: The magic {kind} of {keys} is",
    ),
    many=Asking(
        opening="Some magic {kind}s are hidden in the text below. Read carefully: you will be asked about it "
        "afterwards.\n\n",
        question=ask("What are all the magic {kind}s of {quoted} in the text above?"),
        prefix="Answer: The magic {kind}s of {keys} are",
    ),
    last_key=" and ",
    tracking=Asking(
        opening="Below, values are assigned to variables, between lines that do not matter. Track the assignments.\n\n",
        question=ask("Which {count} variables hold the value {value} in the text above?"),
        prefix="Answer: The {count} variables that hold the value {value} are:",
    ),
    common=Asking(
        opening="Here is a numbered list of words. Some occur more often than others: remember those.\n\n",
        question=ask("Which 10 words occur most often in the list above?"),
        prefix="Answer: The 10 words that occur most often are:",
    ),
    frequent=Asking(
        opening="Read this coded text and count its words. Ignore the dots.\n\n",
        question=ask("Apart from the dots, which 3 coded words occur most often in the text above?"),
        prefix="Answer: The 3 coded words that occur most often are:",
    ),
    documents=Asking(
        opening="Answer the question with the help of the documents below. Answer in a few words.\n\n",
        question=ask("{question}"),
        prefix="Answer:",
    ),
)

_REPLY = "Use the documents given here to answer the question. Reply with nothing but the answer itself, briefly."

RULER_LENGTHS = Wording(
    needle="Note that the secret magic {kind} of {key} is: {value}.",
    needle_of_many="Note that one secret magic {kind} of {key} is: {value}.",
    one=Asking(
        opening="Somewhere in the text below a secret magic {kind} is mentioned. Keep it in mind. You will be asked "
        "for the {kind} later.\n\n",
        question="\n\nWhich is the secret magic {kind} of {keys} in the text above?\n",
        prefix="The secret magic {kind} of {keys} in the text above is",
    ),
    many=Asking(
        opening="Somewhere in the text below secret magic {kind}s are mentioned. Keep them in mind. You will be "
        "asked for the {kind}s later.\n\n",
        question="\n\nWhich are all the secret magic {kind}s of {keys} in the text above?\n",
        prefix="The secret magic {kind}s of {keys} in the text above are",
    ),
    last_key=", and ",
    tracking=Asking(
        opening="Somewhere in the text below variables are given values. Keep track of who gets which value.\n\n",
        question=ask("Name all variables that hold the value {value} according to the text."),
        prefix="Answer: If one follows all of the assignments in the text above from the first on, the value {value} "
        "is held by {count} variables, namely:",
    ),
    common=Asking(
        opening="What follows is a list of numbered words. Some of these words come up more often than others. "
        "Remember the most frequent ones.\n\n",
        question=ask("Which 10 words are commonest in the list above?"),
        prefix="Answer: The 10 words that come up most often in it are:",
    ),
    frequent=Asking(
        opening="Below is a text in code. Count how often each coded word comes up. Look for the three commonest.\n\n",
        question=ask(
            "Which three words come up most often in the coded text above? The dots '....' do not count. Explain "
            "nothing."
        ),
        prefix="Answer: In the coded text, the three words that come up most often are:",
    ),
    documents=Asking(
        opening=f"{_REPLY}\n\nThe given documents follow here.\n\n",
        question=f"\n\n{_REPLY}{ask('{question}')}",
        prefix="Answer:",
    ),
)

WORDINGS: Mapping[str, Wording] = {"own": OWN_WORDS, "ruler": RULER_LENGTHS}
