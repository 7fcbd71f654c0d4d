"""Imports point one way. Lazy and type-only imports count too: what dodges a cycle is a cycle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "kvloom"

ORDER = (
    "errors",
    "config",
    "segment",
    "arrays",
    "codec",
    "policy",
    "memory",
    "kernels",
    "attend",
    "model",
    "engine",
    "bench",
    "eval",
    "learn",
    "simulate",
    "server",
    "cli",
)
"""Each may import itself and those before it."""

INSIDE = {
    "model": ("", "text", "files"),
    "simulate": ("traces", ""),
    "server": (
        *("engine_protocol", "missing", "places", "errors", "error_forms", "lanes", "pieces", "job"),
        *("fallback", "disconnect"),
        *("edge", "admin", "waiting", "updates", "dialect", "window", ""),
    ),
}
"""Rooms and single modules inside a room, in the same order; "" is whatever else lies in it directly."""

ONLY = {"policy": {"errors", "segment", "codec", "policy"}}
"""Rooms that may import even less."""

_FREE = {"", "_kernels"}
"""The package itself and the C++ extension have no place in the order."""


def edges(root: Path) -> Iterator[tuple[str, str, str]]:
    """(file, importing room, imported room) of every import inside the package."""
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts == ("__init__",):
            continue  # the public names: they are re-exported from anywhere
        for module in _imported(ast.parse(path.read_text(encoding="utf-8")), ("kvloom", *parts)):
            if module.split(".")[0] == "kvloom":
                yield str(path.relative_to(root)), parts[0], ".".join(module.split(".")[1:2])


def inner_back_edges(root: Path) -> list[str]:
    """Imports between the rooms inside one room that point the wrong way."""
    wrong = []
    for room, order in INSIDE.items():
        for path in sorted((root / room).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            own = parts[1] if parts[1] in order else ""
            for module in _imported(ast.parse(path.read_text(encoding="utf-8")), ("kvloom", *parts)):
                if not _inside(module, f"kvloom.{room}"):
                    continue
                target = next((inner for inner in order if inner and _inside(module, f"kvloom.{room}.{inner}")), "")
                if order.index(target) > order.index(own):
                    wrong.append(f"{path.relative_to(root)}: {own or room} must not import {target or room}")
    return wrong


def _inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _imported(tree: ast.AST, here: tuple[str, ...]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def back_edges(root: Path) -> list[str]:
    """Imports that point the wrong way, and rooms that have no place in the order."""
    wrong = []
    for file, room, target in edges(root):
        if target in _FREE:
            continue
        if room not in ORDER or target not in ORDER:
            wrong.append(f"{file}: {room} or {target} has no place in the order")
        elif ORDER.index(target) > ORDER.index(room) or target not in ONLY.get(room, set(ORDER)):
            wrong.append(f"{file}: {room} must not import {target}")
    return wrong


def test_imports_point_one_way() -> None:
    assert back_edges(SOURCE) == []
    assert inner_back_edges(SOURCE) == []


def test_the_walk_sees_the_package() -> None:
    seen = {(room, target) for _, room, target in edges(SOURCE)}
    assert {("memory", "segment"), ("engine", "memory"), ("policy", "segment")} <= seen


@pytest.mark.parametrize(
    ("file", "code", "fault"),
    [
        ("memory/ledger.py", "from kvloom.engine.engine import Engine", "memory must not import engine"),
        ("memory/ledger.py", "import kvloom.engine.engine", "memory must not import engine"),
        ("memory/ledger.py", "from kvloom import engine", "memory must not import engine"),
        ("memory/ledger.py", "from ..engine.engine import Engine", "memory must not import engine"),
        ("memory/ledger.py", "def late():\n    from kvloom.cli import main", "memory must not import cli"),
        ("policy/retention/lru.py", "from kvloom.memory.arena import Arena", "policy must not import memory"),
        ("policy/retention/lru.py", "from kvloom.config import EngineConfig", "policy must not import config"),
        ("attic/old.py", "from kvloom.errors import KvloomError", "attic or errors has no place in the order"),
    ],
)
def test_a_back_edge_is_found(tmp_path: Path, file: str, code: str, fault: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert back_edges(tmp_path) == [f"{file}: {fault}"]


@pytest.mark.parametrize(
    ("file", "code", "fault"),
    [
        ("model/rope.py", "from kvloom.model.files.manifest import Manifest", "model must not import files"),
        ("model/rope.py", "from kvloom.model.text import chat", "model must not import text"),
        ("model/text/chat.py", "from kvloom.model import files", "text must not import files"),
        ("model/text/chat.py", "def late():\n    from ..files import store", "text must not import files"),
        ("server/edge/body.py", "from kvloom.server.dialect import schemas", "edge must not import dialect"),
        ("server/errors.py", "from kvloom.server.edge.keys import Key", "errors must not import edge"),
        ("server/dialect/chat.py", "from kvloom.server.app import create_app", "dialect must not import server"),
    ],
)
def test_a_back_edge_inside_a_room_is_found(tmp_path: Path, file: str, code: str, fault: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert inner_back_edges(tmp_path) == [f"{file}: {fault}"]


def test_what_is_allowed_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "a.py").write_text(
        "import os\nfrom kvloom import _kernels\nfrom kvloom.memory import arena\n"
    )
    (tmp_path / "__init__.py").write_text("from kvloom.cli import main\n")
    (tmp_path / "model" / "files").mkdir(parents=True)
    (tmp_path / "model" / "files" / "a.py").write_text(
        "from kvloom.model import rope\nfrom kvloom.model.text import chat\n"
    )
    assert back_edges(tmp_path) == inner_back_edges(tmp_path) == []
