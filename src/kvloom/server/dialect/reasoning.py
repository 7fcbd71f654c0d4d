"""Reasoning apart from the answer: what marks it in a model's text, and the template's switches for it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kvloom.config import ServerConfig
from kvloom.engine.params import SamplingParams
from kvloom.engine.reasoning import ReasoningBudget, ReasoningForm, ReasoningTokens
from kvloom.errors import RequestError
from kvloom.server.dialect.tools.conversation import Conversation
from kvloom.server.engine_protocol import Tokenizer
from kvloom.server.pieces import Piece, PieceReader, ReasoningPiece, beginning_of

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

_SPACE = " \t\r\n"


_THINK = ReasoningForm("<think>", "</think>")
_THINKS = ReasoningForm("<think>", "</think>", begins=True)
FORMS: Mapping[str, ReasoningForm] = {
    "qwen3": _THINK,
    "glm45": _THINK,
    "olmo3": _THINK,
    "deepseek_r1": _THINKS,
    "minimax_m2": _THINKS,
    "step3": _THINKS,
    "granite": ReasoningForm("Here is my thought process:", "Here is my response:"),
}
"""By the names of vLLM's parsers."""


class ReasoningReader:
    """Reasoning first, then what ``rest`` reads. White space around reasoning is part of nothing."""

    def __init__(self, form: ReasoningForm, inside: bool | None, rest: PieceReader) -> None:
        """``inside``: whether the answer begins within; None: where it begins with the mark."""
        self._form, self._inside, self._rest = form, inside, rest
        self._opened = self._begun = self._over = False
        self._held = ""

    @property
    def calls(self) -> int:
        return self._rest.calls

    def push(self, text: str) -> list[Piece]:
        if self._inside is False:
            return self._after(text)
        self._held += text
        if not self._begun and not self._begin():
            return []
        return self._within() if self._inside else self._after(self._taken())

    def finish(self) -> list[Piece]:
        held = self._taken()
        if self._inside is False:
            return [*(self._rest.push(held) if held else []), *self._rest.finish()]
        if self._inside is None:
            return [*self._rest.push(held), *self._rest.finish()]
        held = held.rstrip(_SPACE) if self._begun else held.strip(_SPACE)
        return [*([ReasoningPiece(held)] if held else []), *self._rest.finish()]

    def _begin(self) -> bool:
        """Whether it is certain how the answer begins."""
        said, mark = self._held.lstrip(_SPACE), self._form.open
        if self._opened:
            pass
        elif said.startswith(mark):
            self._inside = self._opened = True
            said = said[len(mark) :].lstrip(_SPACE)
        elif mark.startswith(said):
            return False
        elif self._inside is None:
            self._inside = False
            self._begun = self._over = True
            return True
        self._held = said
        self._begun = bool(said)
        return self._begun

    def _within(self) -> list[Piece]:
        mark = self._form.close
        at = self._held.find(mark)
        if at >= 0:
            said, after = self._held[:at].rstrip(_SPACE), self._held[at + len(mark) :]
            self._held, self._inside = "", False
            return [*([ReasoningPiece(said)] if said else []), *self._after(after)]
        certain = self._held[: len(self._held) - beginning_of(mark, self._held)].rstrip(_SPACE)
        self._held = self._held[len(certain) :]
        return [ReasoningPiece(certain)] if certain else []

    def _after(self, text: str) -> list[Piece]:
        if not self._over:
            text = text.lstrip(_SPACE)
            self._over = bool(text)
        return self._rest.push(text) if text else []

    def _taken(self) -> str:
        held, self._held = self._held, ""
        return held


@dataclass(frozen=True, slots=True)
class Reading:
    """``reader``, ``tokens``: made for each choice; None: reasoning is not told apart in this answer."""

    reader: Callable[[], PieceReader]
    tokens: Callable[[], ReasoningTokens] | None = None


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How the served model reasons, if it does. ``switches``: the template's variables for it."""

    tokenizer: Tokenizer
    form: ReasoningForm | None
    switches: frozenset[str]

    @classmethod
    def of(cls, config: ServerConfig, tokenizer: Tokenizer) -> Reasoning:
        template = tokenizer.chat_template or ""
        words = frozenset(re.findall(r"\b(?:enable_thinking|reasoning_effort|thinking)\b", template))
        named = FORMS.get(config.reasoning_parser)
        found = _THINK if config.reasoning_parser == "auto" and _THINK.close in template else named
        return cls(tokenizer, found, words)

    def directed(self, conversation: Conversation, effort: Effort | None, field: str) -> Conversation:
        """With the template's switches as ``effort`` says, unless the request sets them. An answer of a form has none
        that says nothing else, so reasoning is off for it. Raises RequestError where the template has no switch.
        """
        held = conversation.form is not None or conversation.use.choice.mode == "required"
        if effort is None and not (held and "enable_thinking" in self.switches):
            return conversation
        if effort is not None and not self.switches and not (effort == "none" and self.form is None):
            raise RequestError(
                f"`{field}` is not supported by this server: the model's chat template has no switch for reasoning",
                hint="leave it out",
                param=field,
            )
        on = effort != "none" and not held
        said: dict[str, Any] = {name: on for name in ("enable_thinking", "thinking") if name in self.switches}
        if "reasoning_effort" in self.switches and effort is not None:
            said["reasoning_effort"] = effort
        return dataclasses.replace(conversation, variables=said | dict(conversation.variables or {}))

    def reading(self, rest: Callable[[], PieceReader], prompt: str, held: bool) -> Reading:
        """Of answers to ``prompt``. ``held``: to a form, from the first token on."""
        form = self.form
        if form is None or held:
            return Reading(rest)
        inside = _inside(form, prompt)
        return Reading(
            lambda: ReasoningReader(form, inside, rest()), lambda: ReasoningTokens(form, self.tokenizer, inside)
        )

    def bounded(self, params: SamplingParams, prompt: str, tokens: int | None) -> SamplingParams:
        """With at most so many ``tokens`` of reasoning in answers to ``prompt``, where it is told apart at all."""
        if tokens is None or self.form is None or params.structured_outputs is not None:
            return params
        budget = ReasoningBudget(tokens, self.form, _inside(self.form, prompt))
        return dataclasses.replace(params, reasoning=budget)


def _inside(form: ReasoningForm, prompt: str) -> bool | None:
    """Whether an answer begins within reasoning; None: where it begins with the mark."""
    said = prompt.rstrip(_SPACE)
    return True if said.endswith(form.open) or (form.begins and not said.endswith(form.close)) else None
