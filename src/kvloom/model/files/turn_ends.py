"""Which tokens end a chat turn: what the model's own template writes after an assistant's message."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from functools import lru_cache

from kvloom.errors import KvloomError
from kvloom.model.text.chat import render_chat
from kvloom.model.text.messages import normal_messages

_KNOWN = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|eom|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|END_OF_TURN_TOKEN|>",
    "<end_of_turn>",
    "<turn|>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "</s>",
)
"""Texts that end a turn where a template uses them: an answer, or one that calls a tool."""

_MARKER = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
_WORDS = "QQ"


def is_marker(text: str) -> bool:
    """Whether a token looks like markup, not like a piece of language."""
    return _MARKER.fullmatch(text) is not None


def turn_ends(template: str | None, special: Mapping[str, str], vocab: Container[str]) -> frozenset[str]:
    """Texts of the tokens that end a turn; none for a model without a template."""
    if template is None:
        return frozenset()
    found = {text for text in _KNOWN if text in template and text in vocab}
    written = _after_answer(template, tuple(sorted(special.items())))
    if written in vocab:
        found.add(written)
    if "<|end|>" in found and ("<|call|>" in vocab or "<|calls|>" in vocab):
        found.remove("<|end|>")  # in this format it ends a part of the answer
    return frozenset(found)


@lru_cache(maxsize=4)
def _after_answer(template: str, special: tuple[tuple[str, str], ...]) -> str:
    """The marker that the template writes after an answer, empty if it writes none or cannot be run."""
    messages = [{"role": "user", "content": _WORDS}, {"role": "assistant", "content": _WORDS}]
    variables = {"tools": None, "documents": None, "add_generation_prompt": False}
    try:
        text = render_chat(template, normal_messages(messages, template), {**dict(special), **variables})
    except KvloomError:  # the error will be raised when someone chats
        return ""
    _, words, after = text.rpartition(_WORDS)
    marker = _MARKER.match(after.lstrip()) if words else None
    return "" if marker is None else marker[0]
