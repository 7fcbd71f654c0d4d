"""Directories of kvchunk files: whole files or none, whoever writes, dies, or finds the disk full."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kvchunk_cases import assert_same, made_chunk
from kvloom.memory.kvchunk import SUFFIX, ChunkRefused, Library, Refusal, read_chunk, touch
from kvloom.memory.kvchunk.writing import file_parts
from script import script


def library(directory: Path, budget_bytes: int | None = None) -> Library:
    times = iter(range(1000, 9000))
    return Library(directory / "chunks", budget_bytes, lambda: next(times))


def test_what_is_kept_is_found_by_its_key(tmp_path: Path) -> None:
    shelf, chunk = library(tmp_path), made_chunk()
    path = shelf.write(chunk)
    assert path.name == f"{chunk.identity.key}.kvchunk.safetensors"
    assert path.stat().st_mode & 0o777 == 0o600, "KV tells the text"
    assert_same(read_chunk(path), chunk)
    before = path.stat().st_ino
    shelf.write(chunk)
    assert path.stat().st_ino == before, "what is there is not written again"
    assert [each.path for each in shelf.files()] == [path]


def test_what_was_used_least_recently_goes_first(tmp_path: Path) -> None:
    shelf = library(tmp_path)
    chunks = [made_chunk((1, n)) for n in range(4)]
    for chunk in chunks:
        shelf.write(chunk)
    size = shelf.files()[0].bytes
    assert touch(shelf.path_of(chunks[0].identity.key), shelf.clock())
    assert not touch(tmp_path / "none", 1.0)
    removed = shelf.shrink(2 * size)
    assert [each.path for each in removed] == [shelf.path_of(chunk.identity.key) for chunk in chunks[1:3]]
    assert {each.path for each in shelf.files()} == {shelf.path_of(chunks[n].identity.key) for n in (0, 3)}


def test_a_budget_holds(tmp_path: Path) -> None:
    size = len(b"".join(file_parts(made_chunk((1, 2)))))
    room = -(-size // 4096) * 4096
    shelf = library(tmp_path, 3 * room)
    for n in range(8):
        shelf.write(made_chunk((1, n)))
        assert sum(each.bytes for each in shelf.files()) <= 3 * room
    assert len(shelf.files()) == 3
    small = Library(shelf.directory, room - 1)
    with pytest.raises(ChunkRefused) as refused:
        small.write(made_chunk((5, 5)))
    assert refused.value.refusal == Refusal.FULL
    assert len(shelf.files()) == 3, "nothing is removed for what has no room anyway"


@pytest.mark.parametrize(
    ("call", "error", "expected"),
    [
        ("write", errno.ENOSPC, Refusal.FULL),
        ("fsync", errno.EIO, Refusal.FAILED),
        ("replace", errno.EDQUOT, Refusal.FULL),
    ],
)
def test_a_full_or_broken_disk_leaves_nothing(
    call: str, error: int, expected: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, real, calls = library(tmp_path), getattr(os, call), [0]

    def failing(*arguments: object) -> object:
        calls[0] += 1
        if calls[0] > (3 if call == "write" else 0):  # in the middle of the file
            raise OSError(error, os.strerror(error))
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        with pytest.raises(ChunkRefused) as refused:
            shelf.write(made_chunk())
    assert refused.value.refusal == expected
    assert not list(shelf.directory.iterdir())
    shelf.write(made_chunk())


def test_many_writers_leave_one_valid_file(tmp_path: Path) -> None:
    chunk = made_chunk()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: Library(tmp_path / "chunks").write(chunk), range(32)))
    assert len(list((tmp_path / "chunks").iterdir())) == 1
    (each,) = Library(tmp_path / "chunks").files()
    assert_same(read_chunk(each.path), chunk)


KILLED = """
import os, signal, sys
from pathlib import Path
from kvchunk_cases import made_chunk
from kvloom.memory.kvchunk import Library, read_chunk

def short_life(directory, fatal):
    calls = 0
    def dying(call):
        def counted(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        return counted
    for name in ("open", "write", "fsync", "replace", "close", "utime"):
        setattr(os, name, dying(getattr(os, name)))
    for n in range(2):
        Library(directory).write(made_chunk((1, n)))
    os._exit(0)

directory, shelf = Path(sys.argv[1]), Library(Path(sys.argv[1]))
for fatal in range(1, 1000):
    child = os.fork()
    if not child:
        short_life(directory, fatal)
    _, status = os.waitpid(child, 0)
    for each in shelf.files():
        read_chunk(each.path)
    shelf.shrink(2**30)
    assert not list(directory.glob(".*")), "what is unfinished is removed"
    shelf.shrink(0)
    if not status:
        print(fatal)
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
"""


def test_a_writer_that_is_killed_leaves_no_part_that_can_be_read(tmp_path: Path) -> None:
    """At every system call in turn."""
    done = subprocess.run(script(KILLED, str(tmp_path / "chunks")), check=True, capture_output=True, text=True)
    assert int(done.stdout) > 10


def test_what_a_living_writer_has_begun_is_left_alone(tmp_path: Path) -> None:
    shelf = library(tmp_path)
    shelf.write(made_chunk())
    begun, others = shelf.directory / f".x{SUFFIX}.0.tmp", shelf.directory / ".x.tmp"
    others.touch()
    with begun.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        shelf.shrink(2**30)
        assert begun.exists()
    shelf.shrink(2**30)
    assert not begun.exists()
    assert others.exists(), "what is not ours is left alone"
