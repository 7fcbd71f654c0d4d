"""Selects the tasks of a run by the user's names, and the files that they need."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from kvloom.errors import DataFileError, EvalError
from kvloom.eval.public import FAMILIES, load_family
from kvloom.eval.run import Benchmark
from kvloom.eval.tasks import FILE_TASKS, TaskFiles, make_tasks
from kvloom.eval.tasks.material import OWN, Material

Files = Mapping[str, Path]
"""By name: a field of ``TaskFiles`` or a public family."""


def parse_data(texts: Sequence[str]) -> Files:
    """Read ``NAME=PATH`` pairs. Raises EvalError for an unknown name, DataFileError for a missing file."""
    known = [*(field.name for field in fields(TaskFiles)), *FAMILIES]
    files: dict[str, Path] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in known or not value:
            raise EvalError(f"cannot read `{text}` as data", hint=f"write NAME=PATH, NAME one of {', '.join(known)}")
        files[name] = Path(value)
        if not files[name].exists():
            raise DataFileError("no such file", path=files[name])
    return files


def choose_tasks(names: Sequence[str], files: Files, material: Material = OWN) -> list[Benchmark]:
    """Tasks by name, by group, or of a public family (``longbench`` or ``longbench/qasper``).

    No names: all that need no file, and those whose file is given. Raises EvalError for an unknown name, and for a task
    whose file is not given.
    """
    own = {field.name: files[field.name] for field in fields(TaskFiles) if field.name in files}
    offline = make_tasks(TaskFiles(**own), material)
    if not names:
        return list(offline.values())
    chosen: dict[str, Benchmark] = {}
    for name in names:
        found = _find(name, offline, files)
        chosen |= {task.name: task for task in found}
    return list(chosen.values())


def digests(files: Files) -> dict[str, str]:
    """What the results of a run depend on besides the seed: SHA-256 of every file given, by name."""
    return {name: _digest(path) for name, path in sorted(files.items())}


def _find(name: str, offline: Mapping[str, Benchmark], files: Files) -> Sequence[Benchmark]:
    family, _, part = name.partition("/")
    if family in FAMILIES:
        return load_family(family, part or None, files.get(family))
    found = [task for task in offline.values() if name in (task.name, task.group)]
    if found:
        return found
    if name in FILE_TASKS:
        raise EvalError(f"task `{name}` needs a file", hint=f"give it with --data {FILE_TASKS[name]}=PATH")
    groups = sorted({task.group for task in offline.values()} | set(FAMILIES))
    raise EvalError(f"unknown task `{name}`", hint=f"groups are {', '.join(groups)}; tasks are {', '.join(offline)}")


def _digest(path: Path) -> str:
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    total = hashlib.sha256()
    for each in files:
        with each.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()
