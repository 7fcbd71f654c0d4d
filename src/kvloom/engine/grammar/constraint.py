"""What a grammar allows one sequence to say next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvloom.errors import RequestError

if TYPE_CHECKING:
    import llguidance

    from kvloom.engine.grammar.compiled import Grammar

Allowed = npt.NDArray[np.bool_]


class Constraint:
    """Follows the tokens of one answer.

    ``ends``: tokens that end an answer, allowed where the grammar may end, and nowhere else. ``never``: tokens that are
    not allowed. ``over``: nothing can follow.
    """

    def __init__(
        self,
        grammar: Grammar,
        matcher: llguidance.LLMatcher,
        vocab_size: int,
        ends: list[int],
        never: list[int],
    ) -> None:
        self._grammar, self._matcher = grammar, matcher
        self._ends, self._never = ends, never
        self._size = vocab_size
        self._words = np.zeros((vocab_size + 31) // 32, np.uint32)
        self.over = False

    def allowed(self) -> Allowed:
        """Which tokens may be next, (V,). Raises RequestError when none may, or telling would take too long."""
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        if self._matcher.is_error():
            raise self._failed("became too complex")
        bits = np.unpackbits(self._words.view(np.uint8), count=self._size, bitorder="little")
        allowed_V: Allowed = bits.view(np.bool_)
        allowed_V[self._ends] = self._matcher.is_accepting()
        allowed_V[self._never] = False
        if not allowed_V.any():
            raise self._failed("cannot be gone on with: no token of this model spells what comes next")
        return allowed_V

    def take(self, token: int) -> None:
        """``token``, one of those allowed, is the next. One of ``ends`` changes nothing."""
        if token in self._ends:
            return
        if not self._matcher.consume_token(token):
            raise self._failed("was left")
        self.over = self._matcher.is_stopped()

    def _failed(self, what: str) -> RequestError:
        self._grammar.spoiled = True
        said = " ".join(self._matcher.get_error().split())[:300]
        return RequestError(
            f"the form of the answer {what}{f': {said}' if said else ''}",
            hint="simplify the schema, the regex or the grammar",
            param="structured_outputs",
        )
