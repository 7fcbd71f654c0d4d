"""Models split over several GGUF files, as llama.cpp's ``gguf-split`` and the ``gguf`` package write them.

The first part holds the settings; every part has ``split.no``, ``split.count`` and ``split.tensors.count``.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from kvloom.errors import ModelFileError
from kvloom.model.files.gguf_file import GgufHead, read_gguf
from kvloom.model.files.split_names import SplitName
from kvloom.model.keys import Keys
from kvloom.model.reading import is_there

MOST_PARTS = 65535
"""``split.count`` is a 16-bit number."""
_OWN_KEYS = ("split.no", "general.alignment")
"""Each part has its own."""


def read_gguf_parts(path: Path) -> tuple[GgufHead, ...]:
    """The heads of a model's parts, in order; of a file that is not split, its own alone.

    Raises ModelFileError when ``path`` is not the first part, a part is missing, or parts do not belong together; and
    what ``read_gguf`` raises.
    """
    first = read_gguf(path)
    count = Keys(first.metadata, str(path)).size("split.count", 1, most=MOST_PARTS, least=0)
    name = SplitName.parse(path.name)
    if count <= 1:
        if name is not None and name.count > 1:
            raise ModelFileError(f"`{path}` is named as a part of {name.count}, but says that it is whole")
        return (first,)
    if name is None or name.count != count:
        raise ModelFileError(
            f"`{path}` is one of {count} parts, which are found by their names: this one should end in "
            f"-00001-of-{count:05d}.gguf"
        )
    if name.number != 1:
        raise ModelFileError(
            f"`{path}` is part {name.number} of {count}", hint=f"name the first part: {path.with_name(name.first)}"
        )
    paths = [path.with_name(part) for part in name.parts]
    missing = [part.name for part in paths if not is_there(part)]
    if missing:
        some = f"{', '.join(missing[:5])}{' ...' * (len(missing) > 5)}"
        raise ModelFileError(f"`{path}` is one of {count} parts, of which {len(missing)} are missing: {some}")
    heads = (first, *(read_gguf(part) for part in paths[1:]))
    for index, head in enumerate(heads):
        _check_part(first, head, index)
    _check_tensors(heads)
    return heads


def _check_part(first: GgufHead, head: GgufHead, index: int) -> None:
    """Every setting that a part repeats is the first one's."""
    if head.metadata.get("split.no") != index:
        raise ModelFileError(
            f"`{head.path}` says that it is part {head.metadata.get('split.no')!r}; by its name it is {index} (from 0)"
        )
    for key, value in head.metadata.items():
        if key not in _OWN_KEYS and not _same(value, first.metadata.get(key)):
            raise ModelFileError(f"`{head.path}` does not belong to `{first.path.name}`: they differ in `{key}`")


def _check_tensors(heads: tuple[GgufHead, ...]) -> None:
    names = [tensor.name for head in heads for tensor in head.tensors]
    expected = Keys(heads[0].metadata, str(heads[0].path)).size("split.tensors.count", len(names))
    if len(names) != expected:
        raise ModelFileError(f"`{heads[0].path}` and its parts hold {len(names)} tensors, not {expected}")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ModelFileError(f"two parts of `{heads[0].path}` hold tensor `{twice[0]}`")


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return bool(np.array_equal(one, other))
    return bool(one == other)
