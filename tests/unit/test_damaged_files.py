"""Three hundred damaged model files, by a fixed seed: each loads, or a ModelError names it. Never anything else."""

from __future__ import annotations

import copy
import gc
import json
import os
import random
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from kvloom.errors import ModelError
from kvloom.model.files.convert import Origin, convert
from kvloom.model.files.loading import load_model, load_tokenizer
from kvloom.model.files.manifest import MANIFEST_FILE, read_manifest
from tiny_gguf import tiny_llama, write_gguf

SECONDS = 5
"""No file may keep us busy longer."""
HOSTILE: list[Any] = [
    None, True, False, -1, 0, 0.0, 1, 3, 1e-50, 1e400, -1e400, float("nan"), 2**31, 2**63, 2**64, 10**300,
    "", "x", "../../x", "/etc/passwd", "a\0b", "\ud800", "é" * 3000, [], [[]], [-1], {}, {"content": 3}, ["x"] * 3,
]  # fmt: skip
HOSTILE_BYTES = [b"\xff", b"\x00", b"\x01", b"\x7f", b"\x80", struct.pack("<f", float("nan"))]
Damage = Callable[[Path, random.Random], None]


class Late(BaseException):
    """Not an Exception: nothing may take it for a damaged file."""


@contextmanager
def in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def try_to_load(model: Path, target: Path) -> bool:
    """Whether it loads; asserts that nothing but a ModelError that names the model comes out."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    try:
        with in_time():
            manifest = convert(model, target, Origin("x", "x"))
            load_tokenizer(read_manifest(target))
            load_model(manifest, threads=1, activations="float32")
    except ModelError as error:
        check_message(str(error), model.name, "tokenizer.json", MANIFEST_FILE)
        return False
    return True


def check_message(message: str, *names: str) -> None:
    assert any(name in message for name in names), message
    assert len(message) < 2000


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---- any file


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 2, 8])):
        data[rng.randrange(min(len(data), 4000))] = rng.randrange(256)
    path.write_bytes(data)


def cut(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def insert(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    at = rng.randrange(min(len(data), 4000))
    path.write_bytes(data[:at] + rng.randbytes(rng.choice([1, 4, 8, 500])) + data[at:])


def swap(path: Path, rng: random.Random) -> None:
    data, size = bytearray(path.read_bytes()), rng.choice([1, 4, 8, 32])
    if len(data) > 2 * size:
        one, other = (rng.randrange(min(len(data), 4000) - size) for _ in range(2))
        data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]
    path.write_bytes(data)


def fifo(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def link_to_nowhere(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def endless(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


ANY: list[Damage] = [flip, flip, flip, flip, cut, insert, swap]
INSTEAD: list[Damage] = [fifo, folder, link_to_nowhere, endless]


# ---- GGUF


def gguf_value(path: Path, rng: random.Random) -> None:
    """A length, type, count, dimension, offset or value becomes another one."""
    reader = gguf.GGUFReader(path)
    fields = [field for name, field in reader.fields.items() if not name.startswith("GGUF.")]
    field = rng.choice(fields + [tensor.field for tensor in reader.tensors])
    parts = [part for part in field.parts if part.dtype != np.uint8 or part.nbytes == 1]
    part = rng.choice(parts)
    at = part.__array_interface__["data"][0] - reader.data.__array_interface__["data"][0]
    size = part.nbytes
    del reader, fields, field, parts, part
    data = bytearray(path.read_bytes())
    data[at : at + size] = (rng.choice(HOSTILE_BYTES) * 8)[:size]
    path.write_bytes(data)


@pytest.fixture(scope="module")
def good_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "good.gguf"
    write_gguf(path, tiny_llama(), "llama", "Q8_0", **{"rope.scaling.factor": 2.0})
    return path


def test_damaged_gguf(good_gguf: Path, tmp_path: Path) -> None:
    rng = random.Random(1)
    assert try_to_load(good_gguf, tmp_path / "out")
    damages: list[Damage] = INSTEAD + [rng.choice([*ANY, gguf_value, gguf_value, gguf_value]) for _ in range(146)]
    loaded, before = 0, 0
    for number, damage in enumerate(damages):
        path = tmp_path / f"damaged{number}.gguf"
        shutil.copy(good_gguf, path)
        damage(path, rng)
        try:
            loaded += try_to_load(path, tmp_path / "out")
        except BaseException as error:
            raise AssertionError(f"case {number}, {damage.__name__}: {error!r}") from error
        if number == 40:
            before = resident_bytes()
    assert 5 < loaded < 75, "the damages are too gentle, or too coarse"
    assert resident_bytes() < before * 1.1


# ---- safetensors


def json_places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in [(*at, key), *json_places(item, (*at, key))]]


def damaged_object(value: Any, rng: random.Random) -> str:
    """The text of ``value`` with one value replaced, taken away or doubled."""
    value = copy.deepcopy(value)
    *way, last = rng.choice(json_places(value))
    inside = value
    for key in way:
        inside = inside[key]
    what = rng.choice(["replace", "replace", "replace", "replace", "delete", "double", "deep"])
    if what == "delete":
        del inside[last]
    elif what == "double" and isinstance(inside, dict):
        inside["DOUBLE"] = inside[last]
        return json.dumps(value).replace('"DOUBLE"', json.dumps(last))
    elif what == "deep":
        inside[last] = "DEEP"
        return json.dumps(value).replace('"DEEP"', "[" * 100_000 + "]" * 100_000)
    else:
        inside[last] = rng.choice(HOSTILE)
    return json.dumps(value)


def json_value(path: Path, rng: random.Random) -> None:
    path.write_text(damaged_object(json.loads(path.read_text()), rng))


def header_value(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    head = damaged_object(json.loads(data[8 : 8 + size]), rng).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data[8 + size :])


def header_length(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(struct.pack("<Q", rng.choice([0, 1, 2, 8, 100, 2**31, 2**63, 2**64 - 1])) + data[8:])


@pytest.fixture(scope="module")
def good_hf(tmp_path_factory: pytest.TempPathFactory, good_gguf: Path) -> Path:
    directory = tmp_path_factory.mktemp("good") / "hf"
    tiny_llama().save_pretrained(directory, max_shard_size="6KB")
    made = tmp_path_factory.mktemp("made")
    shutil.copy(convert(good_gguf, made, Origin("x", "x")).tokenizer_path, directory / "tokenizer.json")
    rules = {"eos_token_id": [1, 2], "bos_token_id": 1}
    (directory / "generation_config.json").write_text(json.dumps(rules))
    texts = {"eos_token": "t1", "bos_token": {"content": "t2"}, "chat_template": [{"name": "default", "template": "x"}]}
    (directory / "tokenizer_config.json").write_text(json.dumps(texts))
    return directory


def test_damaged_safetensors(good_hf: Path, tmp_path: Path) -> None:
    rng = random.Random(2)
    assert try_to_load(good_hf, tmp_path / "out")
    shards = sorted(path.name for path in good_hf.glob("*.safetensors"))
    texts = sorted(path.name for path in good_hf.glob("*.json"))
    cases: list[tuple[str, Damage]] = [
        (name, damage) for name in [shards[0], "config.json", "tokenizer.json"] for damage in INSTEAD
    ]
    while len(cases) < 150:
        if rng.random() < 0.4:
            cases.append((rng.choice(shards), rng.choice([*ANY, header_value, header_value, header_length])))
        else:
            cases.append((rng.choice(texts), rng.choice([*ANY, *[json_value] * 7])))
    loaded, before = 0, 0
    for number, (name, damage) in enumerate(cases):
        path = tmp_path / f"damaged{number}"
        shutil.copytree(good_hf, path)
        damage(path / name, rng)
        try:
            loaded += try_to_load(path, tmp_path / "out")
        except BaseException as error:
            raise AssertionError(f"case {number}, {damage.__name__} of {name}: {error!r}") from error
        if number == 40:
            before = resident_bytes()
    assert 5 < loaded < 100, "the damages are too gentle, or too coarse"
    assert resident_bytes() < before * 1.1


# ---- our own manifest


def test_damaged_manifest(good_gguf: Path, tmp_path: Path) -> None:
    rng = random.Random(3)
    (tmp_path / "made").mkdir()
    convert(good_gguf, tmp_path / "made", Origin("x", "x"))
    good = (tmp_path / "made" / MANIFEST_FILE).read_bytes()
    for number in range(60):
        path = tmp_path / "made" / MANIFEST_FILE
        path.write_bytes(good)
        damage = rng.choice([*ANY, *[json_value] * 9])
        damage(path, rng)
        try:
            with in_time():
                load_model(read_manifest(tmp_path / "made"), threads=1, activations="float32")
        except ModelError as error:
            check_message(str(error), MANIFEST_FILE, ".gguf")
        except BaseException as error:
            raise AssertionError(f"case {number}, {damage.__name__}: {error!r}") from error
