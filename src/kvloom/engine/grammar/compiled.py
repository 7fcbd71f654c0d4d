"""A grammar that is compiled for one model's tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import llguidance
from llguidance.gbnf_to_lark import gbnf_to_lark

from kvloom.engine.grammar.constraint import Constraint
from kvloom.engine.grammar.drafts import with_known_draft
from kvloom.engine.grammar.number_bounds import not_held_to, with_whole_counts
from kvloom.engine.grammar.words import clear_words
from kvloom.engine.structured import StructuredOutputsParams
from kvloom.errors import ParamsError, RequestError

LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=200_000,
    step_lexer_fuel=50_000,
    step_max_items=20_000,
    max_lexer_states=16_384,
    verbose_errors=False,
)
"""What a grammar may take: a fraction of a second to compile, milliseconds for a token, some 30 MiB of memory."""

_SPACE = r"[\x20\x0A\x0D\x09]{1,32}"
"""Between the parts of JSON. Small models, left alone, fill a context with white space."""
_GBNF = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)


class Grammar:
    """Where every answer of its form begins. ``size``: bytes of what it was made from.

    ``spoiled``: a limit was reached in a state that all its answers share, so it has to be compiled again.
    """

    def __init__(self, tokens: llguidance.LLTokenizer, asked: StructuredOutputsParams) -> None:
        """Raises ParamsError with the library's words."""
        self.size = len(asked.source)
        self.spoiled = False
        self._tokens = tokens
        self._start = llguidance.LLMatcher(tokens, _library_grammar(asked), log_level=0, limits=LIMITS)
        self._check()
        try:
            self.constraint().allowed()  # the first mask takes longest, and must not keep the engine
        except RequestError as error:
            raise refused(str(error)) from None
        self._check()

    def constraint(self, ends: Iterable[int] = (), never: Iterable[int] = ()) -> Constraint:
        """Of one answer from its beginning. ``ends``, ``never``: see ``Constraint``."""
        return Constraint(self, self._start.deep_copy(), self._tokens.vocab_size, list(ends), list(never))

    def _check(self) -> None:
        if self._start.is_error():
            raise refused(self._start.get_error())


def refused(words: str) -> ParamsError:
    said, hint = clear_words(words)
    return ParamsError(f"the form of the answer cannot be held to: {said}", hint=hint, param="structured_outputs")


def _library_grammar(asked: StructuredOutputsParams) -> str:
    try:
        match asked.kind:
            case "json":
                return llguidance.LLMatcher.grammar_from_json_schema(_schema(asked), overrides=_options(asked))
            case "regex":
                return llguidance.LLMatcher.grammar_from_regex(asked.source)
            case "choice":
                texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in json.loads(asked.source))
                return llguidance.LLMatcher.grammar_from_lark(f"start: {texts}")
            case "grammar":
                return llguidance.LLMatcher.grammar_from_lark(_lark(asked.source))
    except ParamsError:
        raise
    except Exception as error:  # what it says of texts that are not JSON or no grammar has no type of its own
        raise refused(str(error)) from None


def _lark(text: str) -> str:
    return gbnf_to_lark(text) if _GBNF.search(text) else text


def _schema(asked: StructuredOutputsParams) -> dict[str, object]:
    schema = json.loads(asked.source)
    if not isinstance(schema, dict):
        raise refused("a JSON schema is an object")
    if not asked.lenient and (numbers := not_held_to(schema)) is not None:
        raise refused(f"{numbers} are not supported; a whole bound that is included is")
    return with_known_draft(with_whole_counts(schema))


def _options(asked: StructuredOutputsParams) -> llguidance._lib.JsonCompileOptions:
    options: llguidance._lib.JsonCompileOptions = {"lenient": asked.lenient}
    if asked.disable_any_whitespace:
        options["whitespace_flexible"] = False
    else:
        options["whitespace_pattern"] = asked.whitespace_pattern or _SPACE
    return options
