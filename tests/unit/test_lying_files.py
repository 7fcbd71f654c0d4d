"""Files that lie in one place: what the formats' own libraries refuse is refused, by name; and so is more."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors

from kvloom.errors import ModelError, ModelFileError, UnsupportedModel
from kvloom.model.files import store
from kvloom.model.files.convert import Origin, convert
from kvloom.model.files.gguf_file import read_gguf
from kvloom.model.files.gguf_tokenizer import gguf_tokenizer_json
from kvloom.model.files.loading import load_model, load_tokenizer
from kvloom.model.files.manifest import MANIFEST_FILE, read_manifest
from kvloom.model.files.safetensors_file import read_safetensors
from kvloom.model.reading import failures_name
from tiny_gguf import tiny_llama, write_gguf

# ---- GGUF, byte by byte


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def u32(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


def info(name: str, offset: int, shape: tuple[int, ...] = (4, 8), kind: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf_bytes(keys: list[bytes], infos: list[bytes], align: int = 32) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(keys)) + b"".join(keys) + b"".join(infos)
    return head + bytes(-len(head) % max(align, 1)) + bytes(4096)


def refused(path: Path, data: bytes, reason: str) -> None:
    path.write_bytes(data)
    with pytest.raises(ModelError, match=reason) as caught:
        read_gguf(path)
    assert path.name in str(caught.value)


def test_what_we_build_by_hand_is_right(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_bytes([u32("general.alignment", 64)], [info("a", 0), info("b", 128)], 64))
    assert [tensor.data_offset for tensor in gguf.GGUFReader(path).tensors] == [
        t.offset for t in read_gguf(path).tensors
    ]


@pytest.mark.parametrize("align", [0, 1, 2, 4, 12, 24, 33, 2**31 + 8])
def test_alignment(tmp_path: Path, align: int) -> None:
    data = gguf_bytes([u32("general.alignment", align)], [info("a", 0)])
    refused(tmp_path / "x.gguf", data, r"general\.alignment")


def test_alignment_of_another_type(tmp_path: Path) -> None:
    key = text("general.alignment") + struct.pack("<IQ", 10, 32)
    refused(tmp_path / "x.gguf", gguf_bytes([key], [info("a", 0)]), r"has type number 10, not 4")


@pytest.mark.parametrize(
    ("infos", "reason"),
    [
        ([info("a", 0), info("b", 64)], "`b` lies at byte 64 of the weights, its place is 128"),
        ([info("a", 0), info("b", 0)], "`b` lies at byte 0 of the weights, its place is 128"),
        ([info("a", 0), info("b", 132)], "`b` lies at byte 132 of the weights, its place is 128"),
        ([info("a", 0), info("b", 160)], "`b` lies at byte 160"),
        ([info("a", 32)], "`a` lies at byte 32"),
        ([info("a", 0), info("a", 128)], "tensor `a` occurs twice"),
        ([info("a", 0, (33, 2), kind=8)], "rows of 33 values, no whole number of Q8_0 blocks"),
        ([info("a", 0, (2**32, 2**32, 2**32, 2**32))], "truncated"),
        ([info("a", 0, (0, 3))], r"shape \(3, 0\)"),
        ([info("a", 0, (1, 1, 1, 1, 1))], "5 dimensions"),
        ([info("a", 0, ())], "0 dimensions"),
        ([info("a" * 65, 0)], "a name claims 65 bytes"),
        ([info("a", 0, kind=77)], "type number 77"),
    ],
)
def test_tensors(tmp_path: Path, infos: list[bytes], reason: str) -> None:
    refused(tmp_path / "x.gguf", gguf_bytes([], infos), reason)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (u32("a", 1) + u32("a", 1), "key `a` occurs twice"),
        (text("a") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 4, 0), "entries of type number 9"),
        (text("a") + struct.pack("<IIQ", 9, 8, 2**40), "an array claims"),
        (text("a") + struct.pack("<IIQ", 9, 12, 2**60), "an array claims"),
        (text("a") + struct.pack("<IQ", 8, 2**63), "truncated"),
        (text("a") + struct.pack("<I", 13), "the value of `a` has type number 13"),
        (struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<II", 4, 0), "not UTF-8"),
    ],
)
def test_keys(tmp_path: Path, key: bytes, reason: str) -> None:
    count = 2 if key.count(text("a")) == 2 else 1
    data = gguf_bytes([key], [])
    refused(tmp_path / "x.gguf", data[:16] + struct.pack("<Q", count) + data[24:], reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rms_norm_eps": float("inf")}, "layer_norm_rms_epsilon` should be a finite positive number, not inf"),
        ({"rms_norm_eps": float("nan")}, "layer_norm_rms_epsilon` should be a finite positive number, not nan"),
        ({"rms_norm_eps": 0.0}, "layer_norm_rms_epsilon` should be a finite positive number, not 0.0"),
        ({"num_key_value_heads": 3}, "2 query heads cannot share 3 KV heads"),
        ({"max_position_embeddings": 0}, "context_length` should be a number from 1"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    model = tiny_llama()
    for key, value in change.items():
        setattr(model.config, key, value)
    write_gguf(tmp_path / "x.gguf", model, "qwen2", "F32")
    with pytest.raises(ModelFileError, match=reason):
        convert(tmp_path / "x.gguf", tmp_path, Origin("x", "x"))


def test_rope_divisors_that_are_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_header = gguf.GGUFWriter.write_header_to_file

    def with_divisors(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", np.zeros(8, np.float32))
        write_header(writer)

    monkeypatch.setattr(gguf.GGUFWriter, "write_header_to_file", with_divisors)
    write_gguf(tmp_path / "x.gguf", tiny_llama(), "llama", "F32")
    with pytest.raises(ModelFileError, match=r"`x\.gguf`: RoPE .* divisors has frequencies that are 0 or not finite"):
        convert(tmp_path / "x.gguf", tmp_path, Origin("x", "x"))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("tokens", np.arange(3), "`tokenizer.ggml.tokens` should be a list of texts"),
        ("tokens", [], "`tokenizer.ggml.tokens` should be a list of texts"),
        ("merges", ["ab"], "merges` has 'ab', not two pieces"),
        ("token_type", np.array([1.5]), "`tokenizer.ggml.token_type` should be a list of numbers"),
        ("scores", np.array([float("nan")]), "`tokenizer.ggml.scores` should be a list of numbers, all of them finite"),
        ("scores", "high", "`tokenizer.ggml.scores` should be a list of numbers"),
        ("eos_token_id", -3, "`tokenizer.ggml.eos_token_id` should be a number from 0"),
        ("eos_token_id", 1.5, "`tokenizer.ggml.eos_token_id` should be a number from 0"),
        ("add_bos_token", "no", "`tokenizer.ggml.add_bos_token` should be true or false, not 'no'"),
        ("pre", 3, "`tokenizer.ggml.pre` should be a text, not 3"),
    ],
)
def test_vocabulary_of_wrong_types(key: str, value: Any, reason: str) -> None:
    from kvloom.model.files.text_settings import check_gguf_text

    good = {"tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.model": "gpt2"}
    check_gguf_text(good, "x.gguf")
    with pytest.raises(ModelFileError, match=reason):
        check_gguf_text(good | {f"tokenizer.ggml.{key}": value}, "x.gguf")


def test_a_very_long_piece_takes_no_time() -> None:
    tokens = ["<unk>", "a", "b", "ab", "ab" * 100_000]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([2, 1, 1, 1, 1], np.int32),
        "tokenizer.ggml.scores": np.zeros(5, np.float32),
    }
    began = time.perf_counter()
    made = json.loads(gguf_tokenizer_json(metadata, "x.gguf"))
    assert time.perf_counter() - began < 2
    assert made["model"]["merges"] == [["a", "b"]]


# ---- safetensors


def entry(begin: Any, end: Any, shape: Any = (4, 8), dtype: Any = "F32") -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": shape if not isinstance(shape, tuple) else list(shape),
        "data_offsets": [begin, end],
    }


def write_table(directory: Path, head: bytes | dict[str, Any], data: int) -> Path:
    raw = head if isinstance(head, bytes) else json.dumps(head).encode()
    path = directory / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(data))
    return path


SAFE: list[tuple[bytes | dict[str, Any], int, str]] = [
    ({"a": entry(0, 128), "b": entry(64, 192)}, 192, "`b` at byte .* overlaps another"),
    ({"a": entry(0, 128), "b": entry(160, 288)}, 288, "`b` at byte .* follows a hole"),
    ({"a": entry(8, 136)}, 136, "`a` at byte .* follows a hole"),
    ({"a": entry(0, 128)}, 130, "its tensors end at byte"),
    ({"a": entry(0, 128)}, 120, "truncated"),
    ({"a": entry(128, 0)}, 128, "takes 128 bytes, not -128"),
    ({"a": entry(0, 128, (4, 9))}, 128, "takes 144 bytes, not 128"),
    ({"a": entry(0, 128, (-4, -8))}, 128, "`shape` should be a list of whole numbers"),
    ({"a": entry(0, 128, (4.0, 8))}, 128, "`shape` should be a list of whole numbers"),
    ({"a": entry(0, 128, "big")}, 128, "`shape` should be a list of whole numbers"),
    ({"a": entry(0, 128, (2**40, 2**40))}, 128, "takes"),
    ({"a": entry("0", 128)}, 128, "`data_offsets` should be a list of whole numbers"),
    ({"a": entry(0, 128) | {"data_offsets": [0, 128, 9]}}, 128, "`data_offsets` should be two numbers"),
    ({"a": entry(0, 128, dtype="F99")}, 128, "type F99"),
    ({"a": entry(0, 128, dtype=3)}, 128, "`dtype` should be a text, not 3"),
    ({"a": {"shape": [4, 8]}}, 128, "has no `dtype`"),
    ({"a": []}, 128, "`a` should be an object"),
    ({"__metadata__": {"a": 3}}, 0, "`__metadata__` should be texts"),
    (b"[]", 0, "not a JSON object"),
    (b"{" * 300_000, 0, "cannot read"),
    (b'{"a": "\xff"}', 0, "cannot read"),
]
OURS: list[tuple[bytes | dict[str, Any], int, str]] = [
    (b' {"a": ' + json.dumps(entry(0, 128)).encode() + b"}", 128, "not a JSON object"),
    (b'{"a": %b, "a": %b}' % ((json.dumps(entry(0, 128)).encode(),) * 2), 128, "key `a` occurs twice"),
]
"""What the format's document forbids, and its library lets pass."""


@pytest.mark.parametrize(("head", "data", "reason"), SAFE + OURS)
def test_tables(tmp_path: Path, head: bytes | dict[str, Any], data: int, reason: str) -> None:
    path = write_table(tmp_path, head, data)
    if (head, data, reason) in SAFE:
        with pytest.raises(safetensors.SafetensorError), safetensors.safe_open(path, "np"):
            pass
    with pytest.raises(ModelError, match=reason) as caught:
        read_safetensors(tmp_path)
    assert path.name in str(caught.value)


def test_a_header_without_measure(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001) + b"{")
        file.truncate(200_000_000)
    with pytest.raises(ModelFileError, match="a header of 100000001 bytes"):
        read_safetensors(tmp_path)


# ---- the libraries as oracle, over random damage


def damaged(data: bytes, rng: random.Random, head_bytes: int) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 3])):
        changed[rng.randrange(head_bytes)] = rng.choice([0, 1, 255, rng.randrange(256)])
    return bytes(changed[: rng.choice([len(changed)] * 4 + [rng.randrange(len(changed))])])


def refuses(read: Callable[[Path], Any], path: Path, kind: type[Exception]) -> bool:
    try:
        read(path)
    except kind:
        return True
    return False


def compare(path: Path, theirs: Callable[[Path], Any], ours: Callable[[Path], Any], seed: int, head: int) -> int:
    """How many of 300 damaged copies the library refuses; asserts that we refuse those too."""
    data, rng, refusals = path.read_bytes(), random.Random(seed), 0
    for number in range(300):
        path.write_bytes(damaged(data, rng, head))
        refused = refuses(ours, path, ModelError)
        if refuses(theirs, path, Exception):
            refusals += 1
            assert refused, f"case {number} is refused by the format's library"
    return refusals


def open_safely(path: Path) -> None:
    with safetensors.safe_open(path, "np") as file:
        list(file.keys())


@pytest.mark.filterwarnings("ignore")  # numpy's, about numbers that the reference reader lets overflow
def test_gguf_reader_is_no_stricter(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", tiny_llama(), "llama", "Q8_0")
    assert compare(tmp_path / "x.gguf", gguf.GGUFReader, read_gguf, 4, 1900) > 100


def test_safetensors_library_is_no_stricter(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    assert compare(path, open_safely, lambda path: read_safetensors(path.parent), 5, 900) > 100


# ---- folders


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    (tmp_path / "made").mkdir()
    write_gguf(tmp_path / "x.gguf", tiny_llama(), "llama", "Q8_0")
    tiny_llama().save_pretrained(tmp_path / "hf", max_shard_size="6KB")
    made = convert(tmp_path / "x.gguf", tmp_path / "made", Origin("x", "x"))
    shutil.copy(made.tokenizer_path, tmp_path / "hf" / "tokenizer.json")
    return tmp_path / "hf"


def loaded(directory: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    manifest = convert(directory, target, Origin("x", "x"))
    load_tokenizer(manifest)
    load_model(manifest, threads=1, activations="float32")


@pytest.mark.parametrize(
    "name", ["../out.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "a\0b", "..\\x", 3, None, ["x"]]
)
def test_an_index_names_files_beside_it_only(hf: Path, tmp_path: Path, name: Any) -> None:
    index = hf / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    shard = min(table["weight_map"].values())
    shutil.copy(hf / shard, tmp_path / "out.safetensors")
    table["weight_map"] = {key: name if value == shard else value for key, value in table["weight_map"].items()}
    index.write_text(json.dumps(table))
    with pytest.raises(ModelFileError, match=r"index\.json` names the file .*only plain names"):
        loaded(hf, tmp_path / "out")


def test_a_folder_of_links_loads(hf: Path, tmp_path: Path) -> None:
    """As the Hugging Face cache keeps models: a snapshot links into a folder of blobs."""
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "1234"
    shutil.copytree(hf, blobs)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(blobs.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(Path("..") / ".." / "blobs" / str(number))
    loaded(snapshot, tmp_path / "out")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "generation_config.json", "chat_template.jinja"])
def test_what_is_no_regular_file_is_not_opened(hf: Path, tmp_path: Path, name: str) -> None:
    (hf / name).unlink(missing_ok=True)
    os.mkfifo(hf / name)
    with pytest.raises(ModelFileError, match=rf"{name}`: it is a FIFO, not a regular file"):
        loaded(hf, tmp_path / "out")


def test_a_path_that_is_a_fifo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLOOM_HOME", str(tmp_path / "home"))
    os.mkfifo(tmp_path / "x.gguf")
    with pytest.raises(ModelFileError, match=r"x\.gguf`: it is a FIFO"):
        store.resolve(str(tmp_path / "x.gguf"))


def test_a_link_to_nowhere_beside_the_model_is_no_error_of_its_own(
    hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVLOOM_HOME", str(tmp_path / "home"))
    (hf / "notes.json").symlink_to("nowhere")
    store.resolve(str(hf))


def test_two_names_of_one_tensor(hf: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    (hf / "model.safetensors.index.json").unlink()
    tensors = {key: value for path in hf.glob("*.safetensors") for key, value in load_file(path).items()}
    tensors["norm.weight"] = tensors["model.norm.weight"].copy()
    save_file(tensors, hf / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"norm\.weight`, and another of that meaning"):
        loaded(hf, tmp_path / "out")


def test_one_tensor_in_two_shards(hf: Path, tmp_path: Path) -> None:
    index = hf / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    shutil.copy(hf / min(table["weight_map"].values()), hf / "again.safetensors")
    table["weight_map"]["more"] = "again.safetensors"
    index.write_text(json.dumps(table))
    with pytest.raises(ModelFileError, match="both hold"):
        loaded(hf, tmp_path / "out")


def test_a_key_twice_in_config(hf: Path, tmp_path: Path) -> None:
    path = hf / "config.json"
    path.write_text('{"vocab_size": 7, ' + path.read_text().lstrip("{ \n"))
    with pytest.raises(ModelFileError, match=r"config\.json`: key `vocab_size` occurs twice"):
        loaded(hf, tmp_path / "out")


@pytest.mark.parametrize(
    ("way", "value", "error", "reason"),
    [
        (("tensors", "embed", "offset"), -8, ModelFileError, "`embed` lies outside"),
        (("tensors", "embed", "offset"), 1 << 40, ModelFileError, "`embed` lies outside"),
        (("tensors", "embed", "file"), 7, ModelFileError, "`embed` lies outside"),
        (("tensors", "embed", "nbytes"), 1, ModelFileError, "cannot take 1 bytes"),
        (("tensors", "embed", "kind"), "Q9", UnsupportedModel, "`embed` has type Q9"),
        (("tensors", "embed", "shape"), [40.0, 32], ModelFileError, r"`tensors\.embed\.shape\[0\]` should be int"),
        (("spec", "heads"), 64, ModelFileError, "shape"),
        (("spec", "kv_heads"), 0, ModelFileError, "impossible settings"),
        (("spec", "norm_eps"), "small", ModelFileError, r"`spec\.norm_eps` should be float, not 'small'"),
        (("spec", "rope", "base"), 0.0, ModelFileError, "frequencies that are 0 or not finite"),
        (("spec", "family"), "gpt2", UnsupportedModel, "family `gpt2`"),
        (("text", "eos_token_ids"), [None], ModelFileError, r"`text\.eos_token_ids\[0\]` should be int"),
        (("version",), "1", ModelFileError, "another version"),
    ],
)
def test_manifest(
    hf: Path, tmp_path: Path, way: tuple[str, ...], value: Any, error: type[ModelError], reason: str
) -> None:
    (tmp_path / "out").mkdir()
    convert(hf, tmp_path / "out", Origin("x", "x"))
    path = tmp_path / "out" / MANIFEST_FILE
    stored = json.loads(path.read_text())
    inside = stored
    for key in way[:-1]:
        inside = inside[key]
    inside[way[-1]] = value
    path.write_text(json.dumps(stored))
    with pytest.raises(error, match=reason) as caught:
        load_model(read_manifest(tmp_path / "out"), threads=1, activations="float32")
    assert MANIFEST_FILE in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), TypeError("x"), RecursionError("x"), OSError(5, "Input/output error"), MemoryError("x")],
    ids=lambda error: type(error).__name__,
)
def test_the_outer_edge_lets_nothing_raw_through(hf: Path, tmp_path: Path, error: Exception) -> None:
    with pytest.raises(ModelFileError, match=r"`.*hf`"), failures_name(hf, writes=tmp_path / "out"):
        raise error


@pytest.mark.parametrize("error", [OSError(28, "No space left"), PermissionError(13, "Permission denied", "out/x")])
def test_the_outer_edge_lets_errors_about_our_own_files_pass(hf: Path, error: OSError) -> None:
    with pytest.raises(type(error)), failures_name(hf, writes=Path("out")):
        raise error
