"""A context that was watched once, for many methods: each finds there what it needs, and has nothing computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kvloom.attend.observe import Probe
from kvloom.engine.kv.watch import Watch
from kvloom.policy.compression.base import Measured
from kvloom.policy.compression.needs import After, Attention, Hidden, Need
from kvloom.segment import SpanSet


@dataclass(slots=True, eq=False)
class Seen(Watch):
    """``by``: who has watched the whole context, for these needs and others."""

    by: Watch = field(kw_only=True)

    def __post_init__(self) -> None:
        self.rows, self.hidden, self.says = SpanSet(), None, 0

    @staticmethod
    def of_what(by: Watch, needs: frozenset[Need]) -> Seen | None:
        """For a method with these needs; None: not all of that was seen."""
        if any(_known(need, by.needs) is None for need in needs):
            return None
        return Seen(by.model, needs, by.stop, text_of=by.text_of, by=by)

    def copy(self) -> Watch:
        return self

    def restart(self) -> None:
        pass

    @property
    def probes(self) -> Sequence[Probe]:
        return ()

    def measured(self, layer: int, needs: frozenset[Need]) -> Measured:
        known = (_known(need, self.by.needs) for need in needs)
        return self.by.measured(layer, frozenset(need for need in known if need is not None))

    def structure(self, tokens: Sequence[int]) -> npt.NDArray[np.bool_]:
        return self.by.structure(tokens)


def together(needs: Sequence[frozenset[Need]]) -> frozenset[Need]:
    """What can be seen in one pass of what these methods need; where some exclude each other, the first one's."""
    found: list[Need] = []
    for need in (each for of_method in needs for each in sorted(of_method, key=repr)):
        if _known(need, frozenset(found)) is None and not any(_exclude(need, other) for other in found):
            found.append(need)
    return frozenset(found)


def _known(need: Need, seen: frozenset[Need]) -> Need | None:
    """The same need, as it stands among those that were seen."""
    return next((each for each in seen if _same(each, need)), None)


def _same(a: Need, b: Need) -> bool:
    if isinstance(a, Hidden) and isinstance(b, Hidden):  # what makes a digest may be a method of an equal object
        return a == b or _maker(a) == _maker(b)
    return a == b


def _maker(need: Hidden) -> tuple[object, object]:
    make = need.digest_for
    return getattr(make, "__self__", make), getattr(make, "__func__", None)


def _exclude(a: Need, b: Need) -> bool:
    """One pass has one digest of hidden states, and one kind of texts after a context."""
    if isinstance(a, Hidden) and isinstance(b, Hidden):
        return True
    after = [need.rows for need in (a, b) if isinstance(need, Attention) and isinstance(need.rows, After)]
    return len(after) == 2 and after[0] != after[1]
