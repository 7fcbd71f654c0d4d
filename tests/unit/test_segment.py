"""Span sets behave like sets of positions."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from kvloom.errors import SpanError
from kvloom.segment import Span, SpanSet

spans = st.tuples(st.integers(0, 40), st.integers(1, 10)).map(lambda pair: Span(pair[0], pair[0] + pair[1]))
span_sets = st.lists(spans, max_size=6).map(SpanSet.of)


def positions(span_set: SpanSet) -> set[int]:
    return {position for span in span_set for position in span.positions()}


@given(a=span_sets, b=span_sets)
def test_operations_are_those_of_sets(a: SpanSet, b: SpanSet) -> None:
    assert positions(a | b) == positions(a) | positions(b)
    assert positions(a - b) == positions(a) - positions(b)
    assert positions(a & b) == positions(a) & positions(b)
    assert len(a) == len(positions(a))
    assert [position in a for position in range(60)] == [position in positions(a) for position in range(60)]


@given(a=span_sets, b=span_sets)
def test_equal_sets_are_equal_values(a: SpanSet, b: SpanSet) -> None:
    for result in (a | b, a - b, a & b):
        assert result == SpanSet.of(Span(position, position + 1) for position in positions(result))


@given(a=span_sets, count=st.integers(0, 70))
def test_first_takes_the_lowest(a: SpanSet, count: int) -> None:
    assert positions(a.first(count)) == set(sorted(positions(a))[:count])


@pytest.mark.parametrize("ends", [(3, 3), (4, 3), (-1, 3)])
def test_a_span_is_never_empty_or_negative(ends: tuple[int, int]) -> None:
    with pytest.raises(SpanError, match="start < stop"):
        Span(*ends)
    assert SpanSet.full(0) == SpanSet()
