"""A method in text and by its fields is one and the same, and ``exact`` is a word of both."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvloom.errors import DataFileError, ParamsError
from kvloom.policy.compression import METHODS, asked_for, compression_of, parse_compression, text_of

WORDS = [
    *(name if METHODS[name].ratio is not None else f"{name}:ratio=0.25" for name in METHODS),
    "knorm:ratio=0.5,allocator=adakv,floor=0.1,protect_first=4,protect=10:20+40:50",
    "kvzap:ratio=0.8,allocator=lukv,page=16,compactor=keepkv,similarity=0.9",
]


@pytest.mark.parametrize("text", WORDS)
def test_what_is_shown_can_be_read(text: str) -> None:
    found = parse_compression(text)
    assert found is not None
    assert parse_compression(text_of(found)) == found


def test_text_and_fields_mean_the_same() -> None:
    meant = compression_of("sink_recent", 0.5, sinks=2, protect_last=16)
    assert parse_compression("sink_recent:ratio=0.5,protect_last=16,sinks=2") == meant
    assert asked_for("sink_recent", 0.5, protect_last=16, sinks=2) == meant


def test_exact_is_nothing() -> None:
    assert parse_compression("exact") is None
    assert asked_for("exact") is None
    assert text_of(None) == "exact"


@pytest.mark.parametrize(
    ("text", "param", "says"),
    [
        ("", "method", "unknown method ``"),
        ("best:ratio=0.5", "method", "unknown method `best`"),
        ("knorm", "ratio", "needs a ratio"),
        ("knorm:0.5", "0.5", "`0.5` is not of the form parameter=value"),
        ("knorm:ratio=half", "ratio", "cannot read `half` as ratio"),
        ("knorm:ratio=nan", "ratio", "from 0 to 1"),
        ("knorm:ratio=0.5,ratio=0.6", "ratio", "ratio is there twice"),
        ("knorm:ratio=0.5,seed=1", "seed", "no parameter `seed`"),
        ("knorm:ratio=0.5,allocator=best", "allocator", "unknown allocator `best`"),
        ("exact:ratio=0.5", None, "`exact` has no parameters"),
    ],
)
def test_what_cannot_be_read(text: str, param: str | None, says: str) -> None:
    with pytest.raises(ParamsError, match=says) as caught:
        parse_compression(text)
    assert caught.value.param == param


def test_fields_that_cannot_be() -> None:
    with pytest.raises(ParamsError, match="unknown method `best`") as caught:
        asked_for("best")
    assert (caught.value.hint or "").startswith("one of exact, keep_all")
    with pytest.raises(ParamsError, match="`exact` has no parameter `ratio`"):
        asked_for("exact", 0.0)
    with pytest.raises(ParamsError, match="`exact` has no parameter `sinks`"):
        asked_for("exact", sinks=1)


def test_a_file_is_named_in_text_and_never_in_fields(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="cannot be read"):
        parse_compression(f"kvzap:ratio=0.5,predictor={tmp_path / 'none.npz'}")
    with pytest.raises(ParamsError, match="must be of type Path"):
        asked_for("kvzap", 0.5, predictor=str(tmp_path / "none.npz"))
