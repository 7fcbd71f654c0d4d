"""Sessions: what is restored is what was saved, bit by bit, or nothing is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import xxhash

import tiny
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.engine.sessions import StoredContext, context, contexts, put_in, take_out
from kvloom.errors import RequestError, SessionRefused
from kvloom.memory.cells import page_cells
from kvloom.memory.kvchunk.container import LENGTH_BYTES, header_length, pack_header
from kvloom.memory.session_file import SUFFIX, Session, read_session, write_session
from kvloom.policy.actions import Drop
from kvloom.segment import Span, SpanSet

PROMPT = tiny.random_prompt(70, 1)
PARAMS = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
WINDOWS = [(None, None), (None, 24)]


def asked(engine: Engine, prompt: list[int] = PROMPT, **cache: object) -> tuple[list[int], int]:
    """(tokens of the answer, prompt tokens found)."""
    engine.submit("a", prompt, PARAMS, cache=CacheParams(**cache))  # type: ignore[arg-type]
    metrics = engine.requests["a"].metrics
    done = tiny.drain(engine, ["a"])["a"]
    return done.tokens, metrics.cached_tokens


def longest(engine: Engine) -> StoredContext:
    return next(contexts(engine))


def saved(engine: Engine) -> Session:
    return take_out(engine, longest(engine).id)


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("kv_dtype", ["int16", "int8", "float32"])
def test_another_engine_answers_as_the_first_with_as_much_found(
    windows: tuple[int | None, ...], kv_dtype: str, tmp_path: Path
) -> None:
    first = tiny.make_engine(windows=windows, kv_dtype=kv_dtype)
    answer, found = asked(first)
    assert found == 0
    again, warm = asked(first)
    assert (again, warm > 50) == (answer, True)
    path = tmp_path / f"x{SUFFIX}"
    assert write_session(path, saved(first)) == path.stat().st_size
    other = tiny.make_engine(windows=windows, kv_dtype=kv_dtype)
    assert put_in(other, read_session(path)) == len(longest(first).tokens)
    other.check()
    assert longest(other) == longest(first)
    assert asked(other) == (answer, warm)
    for group, fmt in enumerate(first.layout.formats):
        pages = [
            [
                bytes(page_cells(engine.ledger.arena.memory, fmt, page))
                for entry in engine.ledger.index.entries.values()
                if (page := entry.pages[group]) is not None and entry.position < 48
            ]
            for engine in (first, other)
        ]
        assert sorted(pages[0]) == sorted(pages[1])


def test_a_salt_is_kept_without_being_told(tmp_path: Path) -> None:
    first, other = tiny.make_engine(), tiny.make_engine()
    _, _ = asked(first, salt="secret")
    path = tmp_path / "x"
    write_session(path, saved(first))
    assert b"secret" not in path.read_bytes()
    put_in(other, read_session(path))
    assert asked(other)[1] == 0
    assert asked(other, salt="secret")[1] > 50


def test_contexts_tell_what_is_there(tmp_path: Path) -> None:
    engine = tiny.make_engine(windows=(None, 24))
    asked(engine)
    asked(engine, [*PROMPT[:32], *tiny.random_prompt(20, 2)])
    found = list(contexts(engine))
    assert [len(each.tokens) for each in found] == sorted((len(each.tokens) for each in found), reverse=True)
    assert {each.tokens[:32] for each in found} == {tuple(PROMPT[:32])}
    lost = next(each for each in engine.ledger.index.entries.values() if each.position == 16).pages[1]
    assert lost is not None
    engine.ledger.apply(Drop(lost))
    whole, window = longest(engine).segments
    assert whole == SpanSet.full(len(found[0].tokens))
    assert window == whole - SpanSet((Span(16, 32),))
    other = tiny.make_engine(windows=(None, 24))
    put_in(other, saved(engine))
    other.check()
    assert longest(other).segments == (whole, window)
    for each in contexts(engine):
        assert context(engine, each.id) == each
    assert context(engine, "nonsense") is None
    with pytest.raises(RequestError, match="there is no context `nonsense`"):
        take_out(engine, "nonsense")
    engine.reset_cache()
    assert list(contexts(engine)) == []


def test_restoring_what_is_there_takes_nothing_and_restoring_twice_neither() -> None:
    engine = tiny.make_engine()
    asked(engine)
    session, before = saved(engine), engine.stats().cache
    for _ in range(2):
        put_in(engine, session)
        engine.check()
    after = engine.stats().cache
    assert (after.used_bytes, after.cached_pages, after.held_pages) == (before.used_bytes, before.cached_pages, 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weights": "ab" * 32}, "it is of model abababababab"),
        ({"formats": "other"}, "its pages are in other"),
        ({"tokens": (10**6, *PROMPT[1:])}, "vocabulary"),
        ({"tokens": ()}, "0 tokens"),
        ({"pages": ({},)}, "1 layer groups"),
        ({"pages": ({99: np.zeros(1, np.uint8)}, {})}, "its pages are not those of its tokens"),
    ],
)
def test_what_is_of_anything_else_is_refused_and_nothing_happens(change: dict[str, object], says: str) -> None:
    engine = tiny.make_engine(windows=(None, 24))
    asked(engine)
    session = dataclasses.replace(saved(engine), **change)  # type: ignore[arg-type]
    engine.reset_cache()
    with pytest.raises(SessionRefused, match=says):
        put_in(engine, session)
    engine.check()
    assert engine.stats().cache.cached_pages == 0


def test_where_there_is_no_room_nothing_is_left_behind() -> None:
    large, small = tiny.make_engine(), tiny.make_engine(kv_bytes=192 * 2**10)
    asked(large, tiny.random_prompt(480, 3))
    session = saved(large)
    with pytest.raises(RequestError, match="no room for a session of"):
        put_in(small, session)
    small.check()
    assert small.stats().cache.held_pages == 0


def test_no_damaged_file_is_used(tmp_path: Path) -> None:
    engine = tiny.make_engine(windows=(None, 24))
    asked(engine)
    path = tmp_path / "x"
    write_session(path, saved(engine))
    whole = path.read_bytes()
    text = whole.rindex(b"}", 0, 8192)
    places = [*range(8), *range(8, text, 37), *range(4096, len(whole), len(whole) // 60), len(whole) - 1]
    for place in places:
        if place >= len(whole):
            continue
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            read = read_session(path)
        except SessionRefused:
            continue
        assert read.root == saved(engine).root, f"byte {place}"
        assert read.tokens == saved(engine).tokens, f"byte {place}"
        assert place < 4096, "a byte of KV may not change unseen"
    for size in (0, 7, 100, 5000, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(SessionRefused):
            read_session(path)
    path.unlink()
    with pytest.raises(SessionRefused, match="cannot be read: No such file"):
        read_session(path)


@pytest.mark.parametrize(
    "change", [{"digests": None}, {"digests": "no JSON"}, {"digests": "7"}, {"root": None}, {"root": "no hex"}]
)
def test_a_header_that_says_too_little_is_refused(tmp_path: Path, change: dict[str, str | None]) -> None:
    """Of a file that somebody else wrote: its own digest is right."""
    engine = tiny.make_engine()
    asked(engine)
    path = tmp_path / "x"
    write_session(path, saved(engine))
    whole = path.read_bytes()
    length = header_length(whole[:LENGTH_BYTES], len(whole))
    shown = json.loads(whole[LENGTH_BYTES : LENGTH_BYTES + length])
    metadata = {name: text for name, text in (shown["__metadata__"] | change).items() if text and name != "digest"}
    metadata["digest"] = xxhash.xxh3_128_hexdigest(json.dumps(metadata, sort_keys=True).encode())
    tensors = [(name, each["dtype"], tuple(each["shape"])) for name, each in shown.items() if name != "__metadata__"]
    path.write_bytes(pack_header(metadata, tensors) + whole[LENGTH_BYTES + length :])
    with pytest.raises(SessionRefused, match="is no session"):
        read_session(path)
