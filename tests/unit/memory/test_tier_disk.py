"""The tier on disk: what a restart finds, what happens when the disk will not, and that files fit into the budget."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvloom.errors import ConfigError
from kvloom.memory.tier import disk, disk_sync, page_file
from kvloom.memory.tier.base import Fault, StoredPage, TierFault
from kvloom.memory.tier.disk import DiskTier
from kvloom.memory.tier.disk_index import BATCH
from kvloom.memory.tier.disk_recovery import Repairs
from tier_cases import made_page, read_back

ROOMY = 64 * 2**20


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def opened(directory: Path, budget_bytes: int = ROOMY) -> DiskTier:
    return DiskTier(directory, budget_bytes, Clock())


def empty_bytes(directory: Path) -> int:
    """What is charged for a directory without pages."""
    tier = opened(directory)
    tier.close()
    return tier.usage().used_bytes


def file_of(directory: Path, page: StoredPage) -> Path:
    name = f"{page.place.key.hex()}-{page.place.group}.kv"
    return directory / "pages" / name[:2] / name


def occupied(directory: Path) -> int:
    """Bytes of all files in whole blocks, and of all directories."""
    block = os.statvfs(directory).f_frsize
    return sum(-(-path.lstat().st_size // block) * block for path in (directory, *directory.rglob("*")))


def filled(directory: Path, count: int = 6) -> None:
    """Closed properly, with the pages 0 to ``count``, of which 0 was used last."""
    tier = opened(directory)
    for number in range(count):
        tier.write(made_page(number))
    read_back(tier, made_page(0))
    tier.close()


def order(tier: DiskTier) -> list[int]:
    """Which pages there are, from the least recently used on."""
    numbers = {made_page(number).place: number for number in range(100)}
    return [numbers[row.place] for row in tier.rows()]


def fault_of(act: Callable[[], Any]) -> Fault:
    with pytest.raises(TierFault) as caught:
        act()
    return caught.value.fault


# -- a restart ---------------------------------------------------------------------------------------------------------


def test_a_restart_finds_pages_and_their_order(tmp_path: Path) -> None:
    filled(tmp_path)
    tier = opened(tmp_path)
    assert order(tier) == [1, 2, 3, 4, 5, 0]
    assert tier.repairs == Repairs()
    assert all(read_back(tier, made_page(number)) == bytes(made_page(number).data) for number in range(6))
    tier.close()


def test_charges_are_the_same_after_a_restart(tmp_path: Path) -> None:
    tier = opened(tmp_path)
    tier.write(made_page(0))
    tier.write(made_page(1, 1))
    usage = tier.usage()
    tier.close()
    again = opened(tmp_path)
    assert again.usage() == usage
    again.close()


def test_a_smaller_budget_keeps_what_was_used_last(tmp_path: Path) -> None:
    filled(tmp_path)
    tier = opened(tmp_path)
    usage = tier.usage()
    tier.close()
    smaller = opened(tmp_path, usage.used_bytes - 1)
    assert order(smaller) == [2, 3, 4, 5, 0]
    assert smaller.usage().used_bytes <= usage.used_bytes - 1
    assert not file_of(tmp_path, made_page(1)).exists()
    smaller.close()


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "noise", "foreign", "directory of rows"])
def test_an_index_that_is_no_use_is_made_again(tmp_path: Path, damage: str) -> None:
    filled(tmp_path)
    index = tmp_path / "index.sqlite"
    content = index.read_bytes()
    index.unlink()
    if damage in ("foreign", "directory of rows"):
        database = sqlite3.connect(index)
        if damage == "directory of rows":
            database.execute("PRAGMA application_id = 0x4B564C4D")
            database.execute("PRAGMA user_version = 1")
            database.execute("CREATE TABLE page(a, b, c, d, e)")
            database.execute("INSERT INTO page VALUES ('x', 'y', 'z', 1, 2)")
        else:
            database.execute("CREATE TABLE somebody(else_s)")
        database.commit()
        database.close()
    elif damage != "missing":
        noise = random.Random(0).randbytes(len(content))
        index.write_bytes({"empty": b"", "cut": content[:1500], "noise": noise}[damage])
    for number, used in enumerate([50, 10, 40, 20, 30, 60]):
        os.utime(file_of(tmp_path, made_page(number)), (used, used))
    tier = opened(tmp_path)
    assert tier.repairs == Repairs(adopted=6)
    assert order(tier) == [1, 3, 4, 2, 0, 5]
    assert read_back(tier, made_page(2)) == bytes(made_page(2).data)
    tier.close()
    again = opened(tmp_path)
    assert again.repairs == Repairs()
    again.close()


def test_rows_and_files_that_differ_are_made_to_agree(tmp_path: Path) -> None:
    filled(tmp_path)
    gone, cut, torn, other = (file_of(tmp_path, made_page(number)) for number in (1, 2, 3, 4))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:5000])
    torn.write_bytes(b"")
    longer = file_of(tmp_path, made_page(50))
    longer.parent.mkdir(exist_ok=True)
    shutil.copy(other, longer)  # a whole file under another page's name
    (torn.parent / ".0123456789abcdef.tmp").write_bytes(b"half a page")
    (torn.parent / "notes.txt").write_text("not ours")
    tier = opened(tmp_path)
    assert tier.repairs == Repairs(temporary=1, damaged=3, missing=1)
    assert order(tier) == [4, 5, 0]
    assert sorted(path.name for path in tmp_path.rglob("*.*") if path.is_file() and "index" not in path.name) == sorted(
        [*(file_of(tmp_path, made_page(number)).name for number in (0, 4, 5)), "format.json", "notes.txt"]
    )
    tier.close()


def test_a_file_in_a_wrong_folder_is_not_ours(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    stray = tmp_path / "pages" / "zz" / file_of(tmp_path, made_page(0)).name
    stray.parent.mkdir()
    shutil.move(file_of(tmp_path, made_page(0)), stray)
    tier = opened(tmp_path)
    assert tier.usage().pages == 0
    assert stray.exists()
    tier.close()


def test_uses_are_committed_in_batches(tmp_path: Path) -> None:
    """After a kill the order of most uses is still known, and reading commits only now and then."""
    tier = opened(tmp_path)
    for number in range(3):
        tier.write(made_page(number))
    tier.flush()
    commits = []
    tier._index._database.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
    for _ in range(BATCH):
        read_back(tier, made_page(1))
        read_back(tier, made_page(0))
    assert len(commits) <= 2
    tier.close()
    again = opened(tmp_path)
    assert order(again) == [2, 1, 0]
    again.close()


# -- whose directory it is ---------------------------------------------------------------------------------------------


def test_a_second_process_is_told_who_has_it(tmp_path: Path) -> None:
    tier = opened(tmp_path)
    code = (
        "import sys; from pathlib import Path\n"
        "from kvloom.memory.tier.disk import DiskTier\n"
        "DiskTier(Path(sys.argv[1]), 2**26)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert f"ConfigError: the cache in `{tmp_path}` is in use by process {os.getpid()}" in done.stderr
    tier.close()
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_the_same_process_cannot_have_it_twice(tmp_path: Path) -> None:
    tier = opened(tmp_path)
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
        opened(tmp_path)
    tier.close()
    opened(tmp_path).close()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (json.dumps({"kind": "kvloom pages", "version": 2}), "has format 2, this version of kvloom keeps format 1"),
        (json.dumps({"kind": "photos", "version": 1}), "does not say what the directory holds"),
        ("{", "does not say what the directory holds"),
        ("[]", "does not say what the directory holds"),
    ],
)
def test_another_version_is_refused_and_left_alone(tmp_path: Path, said: str, message: str) -> None:
    filled(tmp_path)
    (tmp_path / "format.json").write_text(said)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=message) as caught:
        opened(tmp_path)
    assert caught.value.hint
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "format.json").unlink()
    tier = opened(tmp_path)
    assert tier.usage().pages == 6
    tier.close()


def test_somebody_elses_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="not a cache of kvloom, and not empty"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_place_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be used as a cache: Not a directory"):
        opened(tmp_path / "file" / "cache")
    with pytest.raises(ConfigError, match="cannot be used as a cache"):
        opened(tmp_path / "file")


def test_a_budget_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="have no room for a page besides the index"):
        opened(tmp_path, 2**20)
    opened(tmp_path).close()


# -- the budget --------------------------------------------------------------------------------------------------------


def test_what_is_charged_covers_what_lies_there(tmp_path: Path) -> None:
    """Measured with everything that is in the directory, after every operation, by pages of a tiny size at worst."""
    budget = empty_bytes(tmp_path / "a") + 40 * 24_000
    tier, rng = opened(tmp_path / "b", budget), random.Random(0)
    for step in range(600):
        page = made_page(rng.randrange(100), rng.randrange(2))
        if rng.random() < 0.7:
            tier.write(page)
        elif tier.holds(page.place):
            read_back(tier, page)
        usage = tier.usage()
        assert usage.used_bytes <= budget
        if step % 10 == 0:
            assert occupied(tmp_path / "b") <= usage.used_bytes
    assert tier.usage().dropped_pages > 100
    tier.clear()
    assert tier.usage().pages == 0
    assert not list((tmp_path / "b").rglob("*.kv"))
    tier.close()


def test_a_temporary_file_is_charged_before_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = opened(tmp_path)
    before, seen = tier.usage().used_bytes, []

    def watch(path: str, page: StoredPage, writer: int) -> None:
        seen.append(tier.usage().used_bytes)
        page_file.write_file(path, page, writer)

    monkeypatch.setattr(disk, "write_file", watch)
    tier.write(made_page(0))
    tier.write(made_page(2))
    assert before < seen[0] < seen[-1] == tier.usage().used_bytes
    tier.close()


def test_a_page_larger_than_the_budget_is_refused_and_nothing_dropped(tmp_path: Path) -> None:
    small = made_page(0, 1)
    budget = empty_bytes(tmp_path / "a") + 10_000
    tier = opened(tmp_path / "b", budget)
    tier.write(small)
    assert fault_of(lambda: tier.write(made_page(1, 0))) is Fault.FULL
    assert tier.holds(small.place)
    tier.close()


def test_room_that_is_being_read_is_not_given_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = made_page(0)
    base = empty_bytes(tmp_path / "a")
    tier = opened(tmp_path / "b", base + 25_000)
    tier.write(page)
    read = disk.read_file

    def read_meanwhile(path: str, *rest: Any) -> None:
        assert fault_of(lambda: tier.write(made_page(1))) is Fault.FULL
        tier.clear()
        assert not tier.holds(page.place)
        assert tier.usage().used_bytes > base, "an open file takes room, whatever its name"
        assert fault_of(lambda: read(path, *rest)) is Fault.GONE
        raise TierFault(Fault.GONE, "it was cleared")

    monkeypatch.setattr(disk, "read_file", read_meanwhile)
    assert fault_of(lambda: read_back(tier, page)) is Fault.GONE
    assert tier.usage().used_bytes == base
    tier.close()


def test_what_was_cleared_while_it_was_written_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = opened(tmp_path)
    before = tier.usage()

    def interrupted(path: str, page: StoredPage, writer: int) -> None:
        page_file.write_file(path, page, writer)
        monkeypatch.undo()
        tier.clear()
        tier.write(page)  # by somebody else, who is done before us

    (file_of(tmp_path, made_page(0)).parent).mkdir()
    monkeypatch.setattr(disk, "write_file", interrupted)
    tier.write(made_page(0))
    assert read_back(tier, made_page(0)) == bytes(made_page(0).data)
    assert not list(tmp_path.rglob("*.tmp"))
    tier.clear()
    assert tier.usage() == before
    tier.close()


# -- a disk that will not ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "fault"),
    [(errno.ENOSPC, Fault.FULL), (errno.EDQUOT, Fault.FULL), (errno.EROFS, Fault.FAILED), (errno.EIO, Fault.FAILED)],
)
@pytest.mark.parametrize("where", ["open", "writev", "replace"])
def test_a_write_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, fault: Fault, where: str
) -> None:
    tier = opened(tmp_path)
    tier.write(made_page(0))
    before = tier.usage()

    def fail(*arguments: Any, **options: Any) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, where, fail)
        assert fault_of(lambda: tier.write(made_page(1))) is fault
    assert tier.usage() == before
    assert not tier.holds(made_page(1).place)
    assert not list(tmp_path.rglob("*.tmp"))
    assert read_back(tier, made_page(0)) == bytes(made_page(0).data)
    tier.write(made_page(1))
    assert tier.holds(made_page(1).place)
    tier.close()


def test_what_cannot_be_removed_stays_charged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has become read-only: what is there can still be read."""
    budget = empty_bytes(tmp_path / "a") + 3 * 25_000
    tier = opened(tmp_path / "b", budget)
    for number in range(3):
        tier.write(made_page(number))
    before = tier.usage()

    def fail(path: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", fail)
        assert fault_of(lambda: tier.write(made_page(3))) is Fault.FAILED
        assert tier.usage() == before
        assert order(tier) == [1, 2, 0], "the next attempt begins with another"
        assert read_back(tier, made_page(0)) == bytes(made_page(0).data)
        file = file_of(tmp_path / "b", made_page(2))
        file.write_bytes(file.read_bytes()[:-1])
        assert fault_of(lambda: read_back(tier, made_page(2))) is Fault.SHORT
        assert not tier.holds(made_page(2).place)
        assert tier.usage().used_bytes == before.used_bytes
        assert fault_of(tier.clear) is Fault.FAILED
        assert tier.usage().pages == 0
    tier.close()
    again = opened(tmp_path / "b")
    assert order(again) == [1, 0], "what is damaged was removed at last"
    again.close()


@pytest.mark.parametrize("damage", ["flipped", "cut", "longer", "gone"])
def test_a_damaged_file_is_removed_and_its_room_given_back(tmp_path: Path, damage: str) -> None:
    tier = opened(tmp_path)
    empty = tier.usage().used_bytes
    tier.write(made_page(0))
    file = file_of(tmp_path, made_page(0))
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        content[9000] ^= damage == "flipped"
        file.write_bytes({"flipped": content, "cut": content[:9000], "longer": content + b"x"}[damage])
    expected = {"flipped": Fault.CORRUPT, "cut": Fault.SHORT, "longer": Fault.CORRUPT, "gone": Fault.GONE}[damage]
    assert fault_of(lambda: read_back(tier, made_page(0))) is expected
    assert not tier.holds(made_page(0).place)
    assert not file.exists()
    assert tier.usage().used_bytes == empty
    tier.close()


def test_a_directory_that_vanishes_is_no_catastrophe(tmp_path: Path) -> None:
    tier = opened(tmp_path / "cache")
    tier.write(made_page(0))
    shutil.rmtree(tmp_path / "cache")
    assert fault_of(lambda: read_back(tier, made_page(0))) is Fault.GONE
    assert fault_of(lambda: tier.write(made_page(1))) is Fault.FAILED
    tier.flush()
    assert tier.usage().pages == 0
    tier.clear()
    tier.close()
    assert not (tmp_path / "cache").exists()


def test_an_index_that_refuses_costs_the_order_only(tmp_path: Path) -> None:
    tier = opened(tmp_path)
    tier._index._database.execute("PRAGMA query_only = ON")
    for number in range(BATCH + 10):
        tier.write(made_page(number, 1))
    assert read_back(tier, made_page(5, 1)) == bytes(made_page(5, 1).data)
    tier.close()
    again = opened(tmp_path)
    assert again.repairs.adopted == again.usage().pages == BATCH + 10
    again.close()


def test_a_full_disk_can_be_started_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no room for the index, nor for saying who has the directory."""
    filled(tmp_path)
    (tmp_path / "index.sqlite").unlink()
    (tmp_path / "index.sqlite").mkdir()

    def fail(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fail)
    monkeypatch.setattr(os, "writev", fail)
    tier = opened(tmp_path)
    assert tier.repairs == Repairs(adopted=6)
    assert read_back(tier, made_page(0)) == bytes(made_page(0).data)
    assert fault_of(lambda: tier.write(made_page(6))) is Fault.FULL
    with pytest.raises(ConfigError, match="in use by another process"):
        opened(tmp_path)
    tier.close()


# -- syncing -----------------------------------------------------------------------------------------------------------


def test_files_are_synced_in_groups_and_folders_after_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watch(file: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)

    tier = opened(tmp_path)
    monkeypatch.setattr(os, "fsync", watch)
    monkeypatch.setattr(disk_sync, "SYNC_FILES", 3)
    files = [str(file_of(tmp_path, made_page(number))) for number in range(4)]
    for number in range(3):
        tier.write(made_page(number))
    assert synced == []
    tier.write(made_page(3))
    assert synced[:3] == files[:3]
    assert sorted(synced[3:]) == sorted({os.path.dirname(file) for file in files[:3]})
    tier.close()
    assert synced[-2:] == [files[3], os.path.dirname(files[3])]


def test_a_disk_that_cannot_sync_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = opened(tmp_path)
    tier.write(made_page(0))

    def fail(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    assert fault_of(tier.flush) is Fault.FAILED
    tier.write(made_page(1))
    tier.close()
