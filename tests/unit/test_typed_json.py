"""Manifests come back from JSON as what they were."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from kvloom.model.files.typed_json import typed


@dataclass(frozen=True)
class Sample:
    either: dict[str, float | int] = field(default_factory=dict)
    maybe: float | None = None
    pairs: tuple[tuple[int, int], ...] = ()


def test_whole_numbers_stay_whole_where_either_may_stand() -> None:
    found = typed(Sample, {"either": {"top_k": 3, "top_p": 0.5}}).either
    assert found == {"top_k": 3, "top_p": 0.5}
    assert [type(value) for value in found.values()] == [int, float]


def test_a_number_where_a_float_is_declared_is_one() -> None:
    assert type(typed(Sample, {"maybe": 3}).maybe) is float
    assert typed(Sample, {"maybe": None}).maybe is None


def test_pairs() -> None:
    assert typed(Sample, {"pairs": [[1, 2], [3, 4]]}).pairs == ((1, 2), (3, 4))


@pytest.mark.parametrize(
    "value",
    [{"either": {"a": "x"}}, {"either": {"a": True}}, {"pairs": [1]}, {"new": 1}]
    + [{"maybe": float(text)} for text in ("nan", "inf", "-inf")],
)
def test_what_does_not_fit(value: dict) -> None:
    with pytest.raises(ValueError, match=r"should be|unknown fields"):
        typed(Sample, value)
