"""Edits of a context, as data: a new prompt, and which parts of it an earlier context had elsewhere.

    earlier   [ system )[ question )[ tool result )[ answer          )
    edited    [ system )[ question )[ answer          )[ new question )
                                     ^ a part: its KV is kept, of other positions and with the tool result before it

In exact mode nothing more is needed: the edited prompt begins like the earlier one, finds that, and all that comes
after the first edit is computed; what was deleted is in none of it. ``Edit.reusing`` asks for the parts instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kvloom.engine.aligned import Part, aligned, common, joined
from kvloom.engine.cache_params import CacheParams, Source
from kvloom.errors import RequestError
from kvloom.memory.format import PAGE_TOKENS
from kvloom.policy.fusion import Fusion

Text = str | Sequence[int]
"""Text, or token ids."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A context after edits: immutable, every edit returns a new one.

    Positions are those of the tokens as they are before that very edit. Raises RequestError for a span that is not
    within them.

    ``earlier``: tokens of the context that was edited. ``parts``: what the prompt is made of now. ``encode``: text to
    tokens.

    >>> edit = Edit.of([1, 2, 3, 4, 5, 6], list)
    >>> edit.delete(1, 3).insert(3, [9]).tokens
    [1, 4, 5, 9, 6]
    >>> edit.move(0, 2, to=5).tokens
    [3, 4, 5, 1, 2, 6]
    """

    earlier: tuple[int, ...]
    parts: tuple[Part, ...]
    encode: Callable[[str], Sequence[int]] = field(repr=False, compare=False)

    @classmethod
    def of(cls, tokens: Sequence[int], encode: Callable[[str], Sequence[int]]) -> Edit:
        """A context that has not been edited yet."""
        earlier = tuple(tokens)
        return cls(earlier, (Part(earlier, 0),) if earlier else (), encode)

    # -- edits -----------------------------------------------------------------------------------------------------

    def delete(self, start: int, stop: int) -> Edit:
        """Without the tokens from ``start`` to ``stop``."""
        return self.replace(start, stop, ())

    def replace(self, start: int, stop: int, text: Text) -> Edit:
        """With ``text`` in place of the tokens from ``start`` to ``stop``."""
        self._check(start, stop)
        return self._with(*self._cut(0, start), *self._new(text), *self._cut(stop, len(self)))

    def insert(self, at: int, text: Text) -> Edit:
        """With ``text`` before the token at ``at``, or at the end."""
        self._check(at, at)
        return self._with(*self._cut(0, at), *self._new(text), *self._cut(at, len(self)))

    def append(self, text: Text) -> Edit:
        """With ``text`` at the end."""
        return self.insert(len(self), text)

    def move(self, start: int, stop: int, *, to: int) -> Edit:
        """With the tokens from ``start`` to ``stop`` before the token that is at ``to`` now, which is none of them."""
        self._check(start, stop)
        self._check(to, to)
        if start < to < stop:
            raise RequestError(f"tokens {start} to {stop} cannot be moved into themselves, to {to}", param="to")
        moved = self._cut(start, stop)
        if to <= start:
            return self._with(*self._cut(0, to), *moved, *self._cut(to, start), *self._cut(stop, len(self)))
        return self._with(*self._cut(0, start), *self._cut(stop, to), *moved, *self._cut(to, len(self)))

    def into(self, text: Text) -> Edit:
        """``text`` in place of all of it: what it has of the earlier context is found by content."""
        return self._with(*aligned(self.earlier, self._encoded(text)))

    # -- what comes of it ------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return sum(len(part.tokens) for part in self.parts)

    @property
    def tokens(self) -> list[int]:
        return [token for part in self.parts for token in part.tokens]

    @property
    def prompt(self) -> dict[str, Any]:
        """What ``LLM.generate`` takes."""
        return {"prompt_token_ids": self.tokens}

    def reusing(self, fusion: Fusion, cache: CacheParams | None = None) -> CacheParams:
        """``cache``, and KV of the earlier context for all parts of it behind an edit, repaired by ``fusion``.

        It is lossy: that KV was computed with what the edit has changed before it. Where too little of it is kept, the
        prompt is computed as ever (the misses then say ``source-gone``), and so it is where that is faster.
        """
        return reusing(self.earlier, self.parts, fusion, cache or CacheParams())

    # -- inside ----------------------------------------------------------------------------------------------------

    def _check(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= len(self):
            raise RequestError(f"tokens {start} to {stop} are not within a context of {len(self)}", param="edit")

    def _cut(self, start: int, stop: int) -> list[Part]:
        found, at = [], 0
        for part in self.parts:
            first, last = max(start - at, 0), min(stop - at, len(part.tokens))
            if first < last:
                found.append(part[first:last])
            at += len(part.tokens)
        return found

    def _encoded(self, text: Text) -> tuple[int, ...]:
        return tuple(self.encode(text) if isinstance(text, str) else text)

    def _new(self, text: Text) -> Iterator[Part]:
        if tokens := self._encoded(text):
            yield Part(tokens, None)

    def _with(self, *parts: Part) -> Edit:
        return replace(self, parts=joined(parts))


def reusing(earlier: Sequence[int], parts: Sequence[Part], fusion: Fusion, cache: CacheParams) -> CacheParams:
    """``cache``, with all parts of an earlier context that a prompt has behind their common beginning as documents.

    Parts of less than a page are computed, as is the last token of the prompt. Without any there is no fusion.
    """
    tokens = [token for part in parts for token in part.tokens]
    same = common(earlier, 0, tokens, 0)
    documents: list[tuple[int, int]] = []
    starts: list[int] = []
    at = 0
    for part in parts:
        first, stop = max(at, same) if part.start == at else at, min(at + len(part.tokens), len(tokens) - 1)
        if part.start is not None and stop - first >= PAGE_TOKENS:
            documents.append((first, stop))
            starts.append(part.start + first - at)
        at += len(part.tokens)
    if not documents:
        return cache
    source = Source(tuple(earlier), tuple(starts))
    return replace(cache, fusion=fusion, documents=tuple(documents), source=source)
