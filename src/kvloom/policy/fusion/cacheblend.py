"""CacheBlend: compute again what has changed most, by the values of an early layer.

Source: CacheBlend (arXiv 2405.16444), as its public code does it: the squared difference of values at the check layer,
over all heads and dimensions. The paper also filters gradually: a little more than the budget is chosen at the check
layer, and the choice narrows in the layers after it, each time by the values that were computed there. ``filters`` does
so. We differ: the paper narrows in all layers, so that the mean is the budget; here the budget is reached after so many
layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.errors import ParamsError
from kvloom.policy.fusion.base import Floats, Need, View


@dataclass(frozen=True, slots=True)
class CacheBlend:
    """``filters``: in so many layers after the check layer the choice narrows. ``wider``: by how many percent the first
    choice then is above the budget. Raises ParamsError on construction.
    """

    filters: int = 0
    wider: int = 50

    def __post_init__(self) -> None:
        for name, value in (("filters", self.filters), ("wider", self.wider)):
            if type(value) is not int or value < 0:
                raise ParamsError(f"{name} must be a number from 0 on, got {value!r}", param=name)

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CHECKED_VALUES})

    def scores(self, view: View) -> Floats:
        assert view.checked is not None
        return gaps(view.checked.values_SKD, view.checked.old_values_SKD)

    def counts(self, budget: int) -> tuple[int, ...]:
        """Rows that go on from the check layer, and from each filter; the last of these is the budget.

        >>> CacheBlend(filters=2, wider=50).counts(100)
        (150, 125, 100)
        """
        above = [self.wider * left / (100 * self.filters) for left in range(self.filters, 0, -1)]
        return (*(int(budget * (1 + share)) for share in above), budget)


def gaps(values_SKD: Floats, old_values_SKD: Floats) -> Floats:
    """float32 (S,): squared differences, summed over heads and dimensions."""
    gap_SKD = values_SKD - old_values_SKD
    gap_S: Floats = (gap_SKD * gap_SKD).sum(axis=(1, 2))
    return gap_S
