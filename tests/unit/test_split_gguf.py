"""Models split over several GGUF files: they load from the first part, and equal the whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from bench.full_cache import full_logits
from kvloom.errors import ModelFileError
from kvloom.model.files import store
from kvloom.model.files.convert import Origin, convert
from kvloom.model.files.gguf_split import read_gguf_parts
from kvloom.model.files.loading import load_model
from kvloom.model.files.split_names import SplitName
from tiny_gguf import tiny_llama, write_gguf, write_parts

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    write_gguf(tmp_path / "whole.gguf", tiny_llama(num_hidden_layers=2), "llama", "Q8_0")
    return tmp_path / "whole.gguf"


@pytest.fixture
def parts(whole: Path, tmp_path: Path) -> list[Path]:
    (tmp_path / "split").mkdir()
    parts = write_parts(whole, tmp_path / "split" / "tiny.gguf")
    assert [part.name for part in parts] == SplitName("tiny", 1, len(parts)).parts
    assert len(parts) >= 3
    return parts


def logits(path: Path, target: Path) -> torch.Tensor:
    target.mkdir()
    model = load_model(convert(path, target, Origin("x", "x")), threads=1, activations="float32")
    return full_logits(model, TOKENS, [len(TOKENS)])


def test_logits_equal_those_of_the_whole_file(whole: Path, parts: list[Path], tmp_path: Path) -> None:
    assert torch.equal(logits(parts[0], tmp_path / "a"), logits(whole, tmp_path / "b"))


def test_id_of_the_weights_covers_every_part(parts: list[Path], tmp_path: Path) -> None:
    def weights_id() -> str:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out").mkdir()
        return convert(parts[0], tmp_path / "out", Origin("x", "x")).weights_id

    before = weights_id()
    data = bytearray(parts[-1].read_bytes())
    data[-1] ^= 1
    parts[-1].write_bytes(data)
    assert weights_id() != before


def test_missing_parts_are_named(parts: list[Path]) -> None:
    parts[1].unlink()
    with pytest.raises(ModelFileError, match=f"1 are missing: {parts[1].name}"):
        read_gguf_parts(parts[0])


def test_another_part_than_the_first_says_which_one_to_name(parts: list[Path]) -> None:
    with pytest.raises(ModelFileError, match=f"part 2 of {len(parts)}") as caught:
        read_gguf_parts(parts[1])
    assert caught.value.hint == f"name the first part: {parts[0]}"


def test_a_part_under_another_name(parts: list[Path], tmp_path: Path) -> None:
    shutil.copy(parts[0], tmp_path / "renamed.gguf")
    with pytest.raises(ModelFileError, match=rf"should end in -00001-of-{len(parts):05d}\.gguf"):
        read_gguf_parts(tmp_path / "renamed.gguf")


def test_parts_that_changed_places(parts: list[Path]) -> None:
    second, third = parts[1].read_bytes(), parts[2].read_bytes()
    parts[1].write_bytes(third)
    parts[2].write_bytes(second)
    with pytest.raises(ModelFileError, match=r"says that it is part 2; by its name it is 1"):
        read_gguf_parts(parts[0])


def write_part(path: Path, number: int, **settings: Any) -> None:
    """One part by hand; ``settings`` replace what belongs there."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint16("split.no", settings.get("no", number))
    writer.add_uint16("split.count", settings.get("count", 2))
    writer.add_int32("split.tensors.count", settings.get("tensors", 2))
    writer.add_string("general.name", settings.get("name", "one"))
    writer.add_tensor(settings.get("tensor", f"blk.{number}.attn_q.weight"), np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"name": "two"}, "differ in `general.name`"),
        ({"count": 3}, "differ in `split.count`"),
        ({"tensors": 3}, r"differ in `split.tensors.count`"),
        ({"tensor": "blk.0.attn_q.weight"}, r"two parts .* hold tensor `blk\.0\.attn_q\.weight`"),
        ({"no": 0}, "says that it is part 0"),
    ],
)
def test_parts_that_do_not_belong_together(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    first, second = (tmp_path / name for name in SplitName("x", 1, 2).parts)
    write_part(first, 0)
    write_part(second, 1)
    assert len(read_gguf_parts(first)) == 2
    write_part(second, 1, **settings)
    with pytest.raises(ModelFileError, match=reason):
        read_gguf_parts(first)


def test_number_of_tensors(tmp_path: Path) -> None:
    for number, name in enumerate(SplitName("x", 1, 2).parts):
        write_part(tmp_path / name, number, tensors=5)
    with pytest.raises(ModelFileError, match="hold 2 tensors, not 5"):
        read_gguf_parts(tmp_path / "x-00001-of-00002.gguf")


def test_a_registered_path_notices_when_any_part_changes(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVLOOM_HOME", str(tmp_path / "home"))
    before = store.resolve(str(parts[0]))
    assert len(before.files) == len(parts)
    parts[1].touch()
    assert store.resolve(str(parts[0])).stamp != before.stamp


def test_parts_that_are_links_to_blobs(parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hugging Face cache keeps files so."""
    monkeypatch.setenv("KVLOOM_HOME", str(tmp_path / "home"))
    (tmp_path / "blobs").mkdir()
    for number, part in enumerate(parts):
        part.rename(tmp_path / "blobs" / str(number))
        part.symlink_to(Path("..") / "blobs" / str(number))
    assert len(store.resolve(str(parts[0])).files) == len(parts)
