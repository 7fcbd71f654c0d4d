"""Span algebra equals set algebra."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.errors import SpanError
from kvloom.segment import Span, SpanSet

spans = st.tuples(st.integers(0, 60), st.integers(1, 12)).map(lambda pair: Span(pair[0], pair[0] + pair[1]))
span_sets = st.lists(spans, max_size=8).map(SpanSet.of)


def members(of: SpanSet) -> set[int]:
    return {position for span in of for position in span.positions()}


@given(span_sets, span_sets, st.integers(0, 80))
def test_algebra(a: SpanSet, b: SpanSet, count: int) -> None:
    for result, expected in [
        (a | b, members(a) | members(b)),
        (a - b, members(a) - members(b)),
        (a & b, members(a) & members(b)),
        (a.first(count), set(sorted(members(a))[:count])),
    ]:
        assert members(result) == expected
        assert len(result) == len(expected)
        assert all(x.stop < y.start for x, y in zip(result.spans, result.spans[1:], strict=False)), "not normal"
    assert all((position in a) == (position in members(a)) for position in range(75))


@pytest.mark.parametrize(("start", "stop"), [(3, 3), (4, 2), (-1, 2)])
def test_impossible_spans_are_refused(start: int, stop: int) -> None:
    with pytest.raises(SpanError, match=r"0 <= start < stop"):
        Span(start, stop)
