"""The kvchunk format: what was written is read, and nothing else ever is."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from kvchunk_cases import TOKENS, assert_same, made_chunk
from kvloom.memory.kvchunk import (
    ChunkRefused,
    KvChunk,
    Refusal,
    Slice,
    describe_file,
    joined,
    read_chunk,
    sliced,
    verify_file,
)
from kvloom.memory.kvchunk.numbers import Dtype, packed, rounded, unpacked
from kvloom.memory.kvchunk.writing import file_parts, write_parts

GOLDEN = Path(__file__).parents[2] / "data" / "golden.kvchunk.safetensors"


def written(directory: Path, chunk: KvChunk) -> Path:
    path = directory / "chunk.safetensors"
    write_parts(path, file_parts(chunk))
    return path


def refusal_of(act: Callable[[], object]) -> Refusal:
    with pytest.raises(ChunkRefused) as refused:
        act()
    return refused.value.refusal


@pytest.mark.parametrize("k_dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("v_dtype", ["F32", "F16", "BF16"])
def test_what_was_written_is_read(k_dtype: Dtype, v_dtype: Dtype, tmp_path: Path) -> None:
    chunk = made_chunk(k_dtype=k_dtype, v_dtype=v_dtype)
    path = written(tmp_path, chunk)
    assert_same(read_chunk(path), chunk)
    said = verify_file(path)
    assert said.identity == describe_file(path).identity == chunk.identity
    assert (said.k_dtype, said.v_dtype) == (k_dtype, v_dtype)


def test_the_golden_file_is_read_and_written_as_ever() -> None:
    """A change here is another version of the format."""
    raw = GOLDEN.read_bytes()
    assert hashlib.sha256(raw).hexdigest() == "c99c73f6f9b544c4c187d6fb4117aac9b8c829ac60fe4a90631edc8f043b123c"
    assert_same(read_chunk(GOLDEN), made_chunk())
    assert b"".join(file_parts(made_chunk())) == raw
    assert made_chunk().identity.key == "eda2903a90f4e9ea13d951aee5d61403228db2f80b426d3f071f48372d053979"


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_the_safetensors_library_reads_it(dtype: Dtype, tmp_path: Path) -> None:
    chunk = made_chunk(k_dtype=dtype, v_dtype=dtype)
    with safe_open(written(tmp_path, chunk), framework="pt") as opened:
        assert set(opened.keys()) == {"tokens", "k.0", "k.2", "v.0", "v.2"}
        assert opened.metadata()["format"] == "kvchunk"
        assert opened.get_tensor("tokens").tolist() == list(TOKENS)
        for layer in chunk.layers:
            for kind, of_layers in (("k", chunk.keys), ("v", chunk.values)):
                found = opened.get_tensor(f"{kind}.{layer}")
                assert found.to(torch.float32).numpy().tobytes() == of_layers[layer].tobytes()


def test_data_is_aligned_and_digests_can_be_checked_by_others(tmp_path: Path) -> None:
    """As ``docs/kvchunk.md`` says it."""
    import xxhash

    raw = written(tmp_path, made_chunk()).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    assert (8 + length) % 4096 == 0
    header = json.loads(raw[8 : 8 + length])
    said = header["__metadata__"]
    data = raw[8 + length :]
    for name, digest in json.loads(said["digests"]).items():
        start, stop = header[name]["data_offsets"]
        assert xxhash.xxh3_128_hexdigest(data[start:stop]) == digest
    blank = raw.replace(f'"digest":"{said["digest"]}"'.encode(), b'"digest":"' + b"0" * 32 + b'"')
    assert xxhash.xxh3_128_hexdigest(blank) == said["digest"]
    tokens = np.array(TOKENS, "<i4").tobytes()
    assert hashlib.sha256(tokens).hexdigest() == said["tokens"]


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, made_chunk())
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        assert refusal_of(lambda: read_chunk(path)) in {Refusal.SHORT, Refusal.MALFORMED}, length


def test_a_file_that_has_grown_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, made_chunk())
    with path.open("ab") as file:
        file.write(b"x")
    assert refusal_of(lambda: read_chunk(path)) == Refusal.MALFORMED


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """One of every byte."""
    path, rng = written(tmp_path, made_chunk()), random.Random(3)
    raw = path.read_bytes()
    file = os.open(path, os.O_RDWR)
    try:
        for at, byte in enumerate(raw):
            os.pwrite(file, bytes([byte ^ 1 << rng.randrange(8)]), at)
            assert refusal_of(lambda: read_chunk(path)) in set(Refusal), at
            assert refusal_of(lambda: verify_file(path)) in set(Refusal), at
            os.pwrite(file, bytes([byte]), at)
    finally:
        os.close(file)
    assert_same(read_chunk(path), made_chunk())


def test_what_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    assert refusal_of(lambda: read_chunk(tmp_path / "none")) == Refusal.GONE
    assert refusal_of(lambda: read_chunk(tmp_path)) in {Refusal.GONE, Refusal.FAILED}
    os.mkfifo(tmp_path / "pipe")
    assert refusal_of(lambda: read_chunk(tmp_path / "pipe")) == Refusal.GONE


def resealed(raw: bytes, change: Callable[[dict[str, str]], None]) -> bytes:
    """The file with other metadata, and a digest that fits."""
    import xxhash

    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    change(header["__metadata__"])
    header["__metadata__"]["digest"] = "0" * 32
    text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    blank = struct.pack("<Q", length) + text + raw[8 + length :]
    digest = xxhash.xxh3_128_hexdigest(blank).encode()
    return blank.replace(b'"digest":"' + b"0" * 32, b'"digest":"' + digest)


CHANGES: dict[str, tuple[Callable[[dict[str, str]], None], Refusal]] = {
    "nothing": (lambda said: None, Refusal.GONE),
    "another format": (lambda said: said.update(format="other"), Refusal.MALFORMED),
    "another version": (lambda said: said.update(version="2"), Refusal.VERSION),
    "another kind": (lambda said: said.update(kind="context-fused"), Refusal.KIND),
    "rotated keys": (lambda said: said.update(rope_state="applied"), Refusal.MALFORMED),
    "a quantizer": (lambda said: said.update(quantizer="int8"), Refusal.MALFORMED),
    "another position": (lambda said: said.update(base_position="16"), Refusal.MALFORMED),
    "another model": (lambda said: said.update(model="0c" * 32), Refusal.MALFORMED),
    "another namespace": (lambda said: said.update(namespace="me"), Refusal.MALFORMED),
    "more tokens": (lambda said: said.update(n="6"), Refusal.MALFORMED),
    "no number": (lambda said: said.update(n="five"), Refusal.MALFORMED),
    "more lead than tokens": (lambda said: said.update(lead="6"), Refusal.MALFORMED),
    "a field too many": (lambda said: said.update(more="1"), Refusal.MALFORMED),
    "a field too few": (lambda said: said.pop("lead") and None, Refusal.MALFORMED),
    "no slice": (lambda said: said.update(slice='{"rank": 1, "world": 1}'), Refusal.MALFORMED),
    "layers without rope": (lambda said: said.update(rope="[]"), Refusal.MALFORMED),
    "no angles": (lambda said: said.update(rope='[{"layers": [0, 2], "angles": ["1"]}]'), Refusal.MALFORMED),
    "too many angles": (
        lambda said: said.update(rope='[{"layers": [0, 2], "angles": [1, 1, 1, 1, 1]}]'),
        Refusal.MALFORMED,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_contradicts_itself_is_refused_though_its_digest_fits(name: str, tmp_path: Path) -> None:
    change, expected = CHANGES[name]
    path = written(tmp_path, made_chunk())
    path.write_bytes(resealed(path.read_bytes(), change))
    if name == "nothing":
        assert_same(read_chunk(path), made_chunk())
    else:
        assert refusal_of(lambda: read_chunk(path)) == expected


def test_slices_for_two_ranks_make_the_whole_again(tmp_path: Path) -> None:
    whole = replace(made_chunk(), same_bits="layout")
    parts = sliced(whole, 2)
    assert [part.identity.slice for part in parts] == [Slice(0, 2), Slice(1, 2)]
    assert len({part.identity.key for part in [whole, *parts]}) == 3
    assert [len(part.keys[0]) for part in parts] == [2, 2]
    stored = [read_chunk(written(tmp_path, part)) for part in parts]
    assert_same(joined(stored[::-1]), whole)
    assert b"".join(file_parts(joined(stored))) == b"".join(file_parts(whole))
    assert_same(joined(sliced(whole, 1)), whole)


def test_slices_that_do_not_belong_together_are_refused() -> None:
    parts, others = sliced(made_chunk(), 2), sliced(made_chunk((3, 4)), 2)
    for wrong in ([], parts[:1], [parts[0], parts[0]], [parts[0], others[1]], [*parts, parts[1]]):
        assert refusal_of(lambda wrong=wrong: joined(wrong)) == Refusal.SLICE
    assert refusal_of(lambda: sliced(made_chunk(), 3)) == Refusal.SLICE
    assert refusal_of(lambda: sliced(parts[0], 2)) == Refusal.SLICE


def test_bfloat16_is_rounded_as_torch_does_it() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    x = np.concatenate([x, np.array([0.0, -0.0, np.inf, -np.inf, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38], np.float32)])
    expected = torch.from_numpy(x).to(torch.bfloat16).to(torch.float32).numpy()
    found = rounded(x, "BF16")
    known = ~np.isnan(x)
    assert found[known].tobytes() == expected[known].tobytes()
    assert np.isnan(found[~known]).all()


@pytest.mark.parametrize(("dtype", "relative", "least"), [("F16", 2.0**-11, 2.0**-25), ("BF16", 2.0**-8, 2.0**-134)])
def test_rounding_is_within_what_is_stated(dtype: str, relative: float, least: float) -> None:
    x = (np.random.default_rng(2).standard_normal(10_000) * 10).astype(np.float32)
    error = np.abs(unpacked(memoryview(packed(x, dtype)), dtype, x.shape).astype(np.float64) - x)
    assert (error <= np.maximum(np.abs(x) * relative, least)).all()
