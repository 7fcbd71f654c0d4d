"""Text goes out as soon as it is certain, and never past a stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvloom.engine.text import TextState


class Pieces:
    """Token t is the t-th piece; ``rest`` comes out at the end."""

    def __init__(self, pieces: list[str], rest: str = "") -> None:
        self.pieces, self.rest = pieces, rest

    def push(self, token_id: int) -> str:
        return self.pieces[token_id]

    def flush(self) -> str:
        return self.rest


def play(pieces: list[str], stops: tuple[str, ...], include: bool = False) -> tuple[str, str | None, list[str]]:
    state, released = TextState(Pieces(pieces), stops, include), []
    for token in range(len(pieces)):
        released.append(state.push(token))
        if state.stopped_by is not None:
            break
    return "".join(released) + state.flush(), state.stopped_by, released


def test_without_stops_nothing_is_held_back() -> None:
    assert play(["a", "b"], ()) == ("ab", None, ["a", "b"])


def test_a_stop_split_over_tokens_is_cut_and_never_leaks() -> None:
    assert play(["hello E", "N", "D more"], ("END",)) == ("hello ", "END", ["hello ", "", ""])


def test_a_false_start_is_released_later() -> None:
    assert play(["x E", "N", "x"], ("END",)) == ("x ENx", None, ["x ", "", "ENx"])


def test_include_keeps_the_stop() -> None:
    assert play(["a END b"], ("END",), include=True)[0] == "a END"


def test_the_earliest_of_several_stops_wins() -> None:
    assert play(["one two"], ("two", "one"))[:2] == ("", "one")


def test_the_end_releases_what_the_stream_held_back() -> None:
    state = TextState(Pieces(["a"], rest="\ufffd"))
    assert state.push(0) + state.flush() == "a\ufffd"


@given(
    st.lists(st.text(alphabet="abE", max_size=4), max_size=12),
    st.lists(st.text(alphabet="abE", min_size=1, max_size=4), max_size=3),
)
def test_streaming_equals_cutting_the_whole_text(pieces: list[str], stops: list[str]) -> None:
    text, stopped, _ = play(pieces, tuple(stops))
    whole, consumed = "".join(pieces), ""
    for piece in pieces:  # the earliest stop by the time it is complete
        consumed += piece
        hits = [consumed.find(stop) for stop in stops if stop in consumed]
        if hits:
            assert text == consumed[: min(hits)]
            assert stopped is not None
            return
    assert (text, stopped) == (whole, None)
