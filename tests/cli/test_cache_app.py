"""``kvloom cache``: over directories in every state, without a traceback."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from kvloom.cli import main
from kvloom.memory.tier.disk import DiskTier
from kvloom.memory.tier.page_file import page_name
from kvloom.memory.tier.writer import Writer
from tier_cases import FORMATS, made_page


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """With three pages of one layer group and one of another, used in the order of their numbers."""
    times = iter(range(1000, 2000))
    tier = DiskTier(tmp_path / "cache", 2**26, lambda: next(times))
    for number in range(3):
        tier.write(made_page(number))
    tier.write(made_page(3, 1))
    tier.close()
    return tmp_path / "cache"


def called(capsys: pytest.CaptureFixture[str], verb: str, directory: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as end:
        main(["cache", verb, "--cache-dir", str(directory), *arguments])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert isinstance(end.value.code, int)
    return end.value.code, said.out, said.err


def damage(directory: Path, number: int) -> None:
    name = page_name(made_page(number).place)
    with (directory / "pages" / name[:2] / name).open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")


def test_ls_for_people(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = called(capsys, "ls", directory)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:4] == [
        f"directory  {directory}",
        "pages      4, 50.5 KiB of KV",
        "  group 0  3 of 16 KiB",
        "  group 1  1 of 2.5 KiB",
    ]
    assert lines[-1].startswith("last used  from 1970-01-01 ")


def test_ls_for_programs(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(called(capsys, "ls", directory, "--json")[1])
    sizes = [fmt.page_bytes for fmt in FORMATS]
    assert facts["groups"] == [
        {"group": 0, "page_bytes": sizes[0], "pages": 3, "bytes": 3 * sizes[0]},
        {"group": 1, "page_bytes": sizes[1], "pages": 1, "bytes": sizes[1]},
    ]
    assert (facts["pages"], facts["oldest_use"], facts["newest_use"]) == (4, 1000, 1003)
    assert facts["charged_bytes"] > facts["page_bytes"] == 3 * sizes[0] + sizes[1]


def test_care_for_programs(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each verb in turn: one page is damaged, one is too much, the others go."""
    damage(directory, 1)
    code, out, _ = called(capsys, "verify", directory, "--json")
    facts = json.loads(out)
    assert (code, facts["whole"], facts["damaged"], len(facts["faults"])) == (1, 3, 1, 1)
    charged = json.loads(called(capsys, "ls", directory, "--json")[1])["charged_bytes"]
    facts = json.loads(called(capsys, "gc", directory, "--max-bytes", str(charged - 1), "--json")[1])
    assert (facts["removed"], facts["kept"]) == (1, 2)
    assert facts["charged_bytes"] < charged
    facts = json.loads(called(capsys, "clear", directory, "--yes", "--json")[1])
    assert facts == {"directory": str(directory), "removed": 2}


def test_ls_says_who_wrote_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for writer in (None, Writer("w" * 64, "dense:int8", model="tiny")):
        tier = DiskTier(tmp_path / "cache", 2**26, writer=writer)
        tier.write(made_page(0 if writer is None else 1))
        tier.close()
    out = called(capsys, "ls", tmp_path / "cache")[1]
    assert "  written by who did not say: 1\n" in out
    assert "  written by tiny (weights wwwwwwwwwwww) in dense:int8: 1\n" in out
    nobody, tiny = json.loads(called(capsys, "ls", tmp_path / "cache", "--json")[1])["writers"]
    assert (nobody["pages"], nobody["weights"]) == (1, None)
    assert (tiny["pages"], tiny["weights"], tiny["keys"]) == (1, "w" * 64, 1)


def test_an_empty_cache_can_be_looked_at(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(capsys, "clear", directory, "--yes") == (0, "pages removed: 4\n", "")
    assert "pages      0, 0 B of KV" in called(capsys, "ls", directory)[1]
    facts = json.loads(called(capsys, "ls", directory, "--json")[1])
    assert (facts["groups"], facts["oldest_use"]) == ([], None)


def test_verify_finds_what_is_damaged_once(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = called(capsys, "verify", directory)
    assert (code, out, err.strip()) == (0, "whole pages: 4; damaged, and removed: 0\n", "")
    damage(directory, 1)
    code, out, err = called(capsys, "verify", directory)
    assert (code, out) == (1, "whole pages: 3; damaged, and removed: 1\n")
    key = made_page(1).place.key.hex()
    assert err.strip() == f"{key}, layer group 0: the page's bytes are not those that were written"
    assert called(capsys, "verify", directory)[0] == 0


def test_verify_counts_what_the_start_has_removed(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = page_name(made_page(2).place)
    (directory / "pages" / name[:2] / name).write_bytes(b"")
    code, out, err = called(capsys, "verify", directory)
    assert (code, out) == (1, "whole pages: 3; damaged, and removed: 1\n")
    assert err.strip() == "damaged files removed: 1"


def test_verify_is_no_use(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    called(capsys, "verify", directory)
    facts = json.loads(called(capsys, "ls", directory, "--json")[1])
    assert facts["newest_use"] == 1003


def test_gc_keeps_what_was_used_last(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    charged = json.loads(called(capsys, "ls", directory, "--json")[1])["charged_bytes"]
    code, out, _ = called(capsys, "gc", directory, "--max-bytes", str(charged - 1))
    assert code == 0
    assert out.startswith("pages removed: 1; kept: 3, ")
    facts = json.loads(called(capsys, "ls", directory, "--json")[1])
    assert (facts["pages"], facts["oldest_use"]) == (3, 1001)
    assert facts["charged_bytes"] <= charged - 1


def test_clear_asks(directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, code, pages in (("n\n", 130, 4), ("", 130, 4), ("y\n", 0, 0)):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        assert called(capsys, "clear", directory)[0] == code
        assert json.loads(called(capsys, "ls", directory, "--json")[1])["pages"] == pages


@pytest.mark.parametrize("verb", ["ls", "verify", "gc", "clear"])
def test_mistakes_are_explained(verb: str, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"gc": ["--max-bytes", "1GiB"], "clear": ["--yes"]}.get(verb, [])
    tier = DiskTier(directory, 2**26)
    code, out, err = called(capsys, verb, directory, *more)
    assert (code, out) == (2, "")
    assert f"error: the cache in `{directory}` is in use by process {os.getpid()}\nhint: " in err
    tier.close()
    for other in (directory / "nowhere", directory.parent):
        code, out, err = called(capsys, verb, other, *more)
        assert (code, out) == (2, "")
        assert f"error: `{other}` is not a cache of kvloom\nhint: " in err
        assert not (directory / "nowhere").exists()
    (directory / "format.json").write_text('{"kind": "kvloom pages", "version": 9}')
    code, out, err = called(capsys, verb, directory, *more)
    assert (code, out) == (2, "")
    assert "has format 9" in err


def test_a_size_that_cannot_be_is_explained(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot read `lots` as a size" in called(capsys, "gc", directory, "--max-bytes", "lots")[2]
    code, _, err = called(capsys, "gc", directory, "--max-bytes", "1KiB")
    assert code == 2
    assert "1024 bytes of disk have no room for a page besides the index" in err
