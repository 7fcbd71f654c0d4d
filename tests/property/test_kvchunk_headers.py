"""Headers that somebody has made up: they are refused, and no memory is taken for what they promise."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvchunk_cases import made_chunk
from kvloom.memory.kvchunk import ChunkRefused, Refusal, read_chunk
from kvloom.memory.kvchunk.container import unpack_header
from kvloom.memory.kvchunk.writing import file_parts

RAW = b"".join(file_parts(made_chunk()))
LENGTH = struct.unpack("<Q", RAW[:8])[0]
DATA = RAW[8 + LENGTH :]
HEADER = json.loads(RAW[8 : 8 + LENGTH])

sizes = st.one_of(st.integers(-5, 5), st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.none(), st.text())
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I32", "F64", "U8", "", 3, None]),
        "shape": st.one_of(st.lists(sizes, max_size=5), sizes),
        "data_offsets": st.one_of(st.lists(sizes, max_size=3), sizes),
    }
)
names = st.sampled_from(["tokens", "k.0", "v.0", "k.2", "v.2", "k.00", "k.1", "q.0", "", "__metadata__"])


def file_of(text: bytes, data: bytes = DATA) -> bytes:
    filled = -(-(8 + len(text)) // 4096) * 4096 - 8
    return struct.pack("<Q", filled) + text.ljust(filled) + data


def refused(path: Path, raw: bytes) -> Refusal:
    path.write_bytes(raw)
    with pytest.raises(ChunkRefused) as why:
        read_chunk(path)
    return why.value.refusal


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("headers") / "made"


@given(changed=st.dictionaries(names, entries, min_size=1, max_size=3))
def test_other_tensors_are_refused(path: Path, changed: dict[str, Any]) -> None:
    """The digest does not fit either: what is tested is that nothing else is raised."""
    refused(path, file_of(json.dumps({**HEADER, **changed}).encode()))


@given(st.binary(max_size=300))
@example(b"")
@example(b"{}")
@example(b"[" * 100_000)
@example(b'{"__metadata__":' + b'{"a":' * 50_000)
@example(b'{"n": ' + b"9" * 5000 + b"}")
@example(b'{"n": NaN}')
@example(b'{"a": 1, "a": 1}')
@example(b"\xff\xfe{}")
def test_any_bytes_are_refused(path: Path, text: bytes) -> None:
    refused(path, file_of(text))
    refused(path, text)


@given(length=st.integers(0, 2**64 - 1), rest=st.binary(max_size=64))
@example(length=2**64 - 8, rest=b"")
@example(length=2**63 + 4088, rest=b"{")
def test_any_length_is_refused(path: Path, length: int, rest: bytes) -> None:
    refused(path, struct.pack("<Q", length) + rest)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda of: st.lists(of) | st.dictionaries(st.text(max_size=5), of),
        max_leaves=8,
    )
)
def test_any_json_is_refused(path: Path, value: Any) -> None:
    refused(path, file_of(json.dumps({"__metadata__": {"format": "kvchunk"}, "tokens": value}).encode()))


@given(field=st.sampled_from(sorted(HEADER["__metadata__"])), value=st.text(max_size=40))
def test_any_metadata_is_refused(path: Path, field: str, value: str) -> None:
    said = {**HEADER["__metadata__"], field: value}
    if said != HEADER["__metadata__"]:
        refused(path, file_of(json.dumps({**HEADER, "__metadata__": said}, separators=(",", ":")).encode()))


def test_no_memory_is_taken_for_what_is_not_there(path: Path) -> None:
    """A tensor of 2^60 bytes in a file of a few thousand."""
    huge = {**HEADER, "v.2": {"dtype": "F32", "shape": [4, 5, 2**56], "data_offsets": [0, 5 * 2**60]}}
    tracemalloc.start()
    try:
        assert refused(path, file_of(json.dumps(huge).encode())) in {Refusal.MALFORMED, Refusal.SHORT}
        assert refused(path, struct.pack("<Q", 2**26 - 8) + b"{") == Refusal.SHORT
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def described(**tensors: tuple[list[int], list[int]]) -> bytes:
    fields = {
        name.replace("_", "."): {"dtype": "F16", "shape": shape, "data_offsets": offsets}
        for name, (shape, offsets) in tensors.items()
    }
    return json.dumps({"__metadata__": {}, **fields}).encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (described(k_0=([4], [0, 8]), v_0=([4], [4, 12])), Refusal.MALFORMED),  # they overlap
        (described(k_0=([4], [0, 8]), v_0=([4], [10, 18])), Refusal.MALFORMED),  # a gap
        (described(k_0=([4], [8, 16]), v_0=([4], [0, 8])), None),  # in another order
        (described(k_0=([4], [0, 8]), v_0=([4], [8, 16]), v_1=([4], [16, 24])), Refusal.SHORT),
        (described(k_0=([4], [0, 8])), Refusal.MALFORMED),  # what follows belongs to nobody
        (described(k_0=([5], [0, 8]), v_0=([4], [8, 16])), Refusal.MALFORMED),
        (b'{"k.0":{"dtype":"F16","shape":[8],"data_offsets":[0,16]}}', Refusal.MALFORMED),  # no metadata
        (b'{"__metadata__":{},"k":{"dtype":"F16","dtype":"F16","shape":[8],"data_offsets":[0,16]}}', Refusal.MALFORMED),
    ],
)
def test_offsets_are_contiguous(text: bytes, expected: Refusal | None) -> None:
    if expected is None:
        assert list(unpack_header(text, 16).tensors) == ["v.0", "k.0"]
        return
    with pytest.raises(ChunkRefused) as why:
        unpack_header(text, 16)
    assert why.value.refusal == expected
