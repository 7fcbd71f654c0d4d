"""Text settings of a model, as its authors published them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TextRules:
    """What the tokenizer needs in addition to ``tokenizer.json``. Special tokens are named by their text.

    ``sampling``: what the model's authors recommend, by the names of SamplingParams. ``twins``: (id, another id) of
    equal text, where ``tokenizer.json`` can name only the other.
    """

    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    special_tokens: dict[str, str]
    chat_template: str | None
    sampling: dict[str, float | int] = field(default_factory=dict)
    twins: tuple[tuple[int, int], ...] = ()
