"""Where tokens begin in the returned text: the values of ``text_offset``."""

from __future__ import annotations

from collections.abc import Sequence

from kvloom.engine.text import TokenStream

_SLACK = 8
"""Characters to look ahead after a token whose text was not found, besides twice its own length."""
_FARTHEST = 256
"""How far to look ahead at most."""


class Places:
    """Offsets of the tokens of an answer, one after another.

    ``stream`` decodes them, ``at`` is where they begin. A token begins after the whole characters before it: those
    that share a character share its place.
    """

    def __init__(self, stream: TokenStream, at: int) -> None:
        self._stream = stream
        self._at = at

    def next(self, token: int) -> int:
        place = self._at
        self._at += len(self._stream.push(token))
        return place


def prompt_places(text: str, tokens: Sequence[int], stream: TokenStream) -> list[int]:
    """Offsets of a prompt's tokens in its text. ``stream`` decodes them, special ones included.

    Tokens that stand for nothing in the text have no width there: those that the tokenizer put in front, and those that
    say something else than the text, because it was normalized. The next one that is found sets things right.
    """
    places, at, missed = [], 0, 0
    for token in tokens:
        piece, place = stream.push(token), at
        width = _width_at(text, at, piece)
        if width is None and (found := text.find(piece, at, at + len(piece) + missed)) >= 0:
            place, width = found, len(piece)
        missed = 0 if width else missed
        if width is None:
            missed = min(missed + 2 * len(piece) + _SLACK, _FARTHEST)
        at = place + (width or 0)
        places.append(place)
    return places


def _width_at(text: str, at: int, piece: str) -> int | None:
    """Characters of ``text`` that ``piece`` stands for there, perhaps without the space that was put in front."""
    return next((len(each) for each in (piece, piece.removeprefix(" ")) if text.startswith(each, at)), None)
