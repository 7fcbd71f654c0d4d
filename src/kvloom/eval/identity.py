"""What a policy does depends on: its code, and the files that it reads. A digest of both stands in every row.

A run whose policy was edited is another run: its rows would lie beside rows of the old code, and nobody could tell.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from kvloom.errors import DataFileError
from kvloom.eval.policy import Policy


def policy_digest(policy: Policy) -> str:
    """Digest of a policy's code and profile; empty for the exact cache, which is the engine as it is.

    Code: the modules of its compression, of this one's parts (values of its fields that have fields in turn), and
    whatever these import from their own folder or below it. Profile: contents of files that its fields name by a Path.
    Raises DataFileError when one cannot be read.
    """
    if policy.compression is None:
        return ""
    parts = list(_parts(policy.compression))
    code = {file for part in parts if not isinstance(part, Path) for file in _sources(type(part))}
    profiles = [part for part in parts if isinstance(part, Path)]
    digests = sorted(map(_digest, code)) + list(map(_digest, profiles))
    return hashlib.sha256(b"".join(digests)).hexdigest()[:16]


def _parts(value: object) -> Iterator[object]:
    """A method, what it is composed of, and the files that it names."""
    yield value
    yield from getattr(value, "reads", ())  # what ships with kvloom, where it names no file
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            for each in inner if isinstance(inner, list | tuple) else [inner]:
                if isinstance(each, Path) or dataclasses.is_dataclass(each):
                    yield from _parts(each)


def _sources(kind: type) -> set[Path]:
    """Files that the code of a class is in, and that this imports from beside or below them."""
    names = [base.__module__ for base in kind.__mro__]
    waiting = [name for name in names if name.partition(".")[0] not in sys.stdlib_module_names]
    homes = [file.parent for file in map(_file, waiting) if file is not None]
    found: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if name not in found and file is not None and any(file.is_relative_to(home) for home in homes):
            found[name] = file
            waiting += _imported(sys.modules[name])
    return set(found.values())


def _file(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file) if file and file.endswith(".py") else None


def _imported(module: ModuleType) -> set[str]:
    """Names of modules whose functions and classes a module holds, or that it holds themselves."""
    values = list(vars(module).values())
    modules = {value.__name__ for value in values if isinstance(value, ModuleType)}
    return modules | {str(value.__module__) for value in values if isinstance(getattr(value, "__module__", None), str)}


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise DataFileError(f"cannot be read: {error.strerror}", path=path) from error
