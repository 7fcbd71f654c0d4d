"""Who wrote the pages in a directory: told after a restart under another model or other formats, and only told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvloom.memory.tier.disk import DiskTier
from kvloom.memory.tier.disk_writers import WRITERS, WRITERS_BYTES, known_writers
from kvloom.memory.tier.writer import Differs, Writer
from tier_cases import made_page, read_back

OURS = Writer("weights", "formats", model="tiny")
OTHERS: dict[Differs, Writer] = {
    "weights": Writer("other", "formats"),
    "formats": Writer("weights", "other"),
    "keys": Writer("weights", "formats", keys=0),
}


def opened(directory: Path, writer: Writer | None = OURS, budget_bytes: int = 2**26) -> DiskTier:
    return DiskTier(directory, budget_bytes, writer=writer)


def written(directory: Path, writer: Writer | None, numbers: range) -> None:
    tier = opened(directory, writer)
    for number in numbers:
        tier.write(made_page(number))
    tier.close()


def pages_of(tier: DiskTier) -> dict[str, int]:
    """By what they differ in. Bytes are those of files in whole blocks, and more."""
    found = tier.usage().foreign
    assert all(each.bytes > each.pages * made_page(0).data.nbytes for each in found.values())
    return {differs: each.pages for differs, each in found.items()}


@pytest.mark.parametrize("differs", OTHERS)
def test_pages_of_another_writer_are_told_apart(tmp_path: Path, differs: Differs) -> None:
    written(tmp_path, OTHERS[differs], range(3))
    written(tmp_path, OURS, range(3, 5))
    tier = opened(tmp_path)
    assert pages_of(tier) == {differs: 3}
    assert [(each.writer, each.differs) for each in tier.other_writers()] == [(OTHERS[differs], differs)]
    tier.write(made_page(9))
    assert pages_of(tier) == {differs: 3}
    tier.clear()
    assert tier.usage().foreign == {}
    assert tier.other_writers() == []
    tier.close()


def test_they_are_counted_no_more_when_they_are_gone(tmp_path: Path) -> None:
    written(tmp_path, OTHERS["weights"], range(20))
    few = opened(tmp_path, budget_bytes=opened_bytes(tmp_path) - 5 * 20_000)
    left = few.usage()
    assert 0 < left.foreign["weights"].pages == left.pages < 20
    few.close()


def opened_bytes(directory: Path) -> int:
    tier = opened(directory)
    used = tier.usage().used_bytes
    tier.close()
    return used


def test_a_lost_index_loses_none_of_that(tmp_path: Path) -> None:
    written(tmp_path, OTHERS["formats"], range(3))
    (tmp_path / "index.sqlite").unlink()
    tier = opened(tmp_path)
    assert tier.repairs.adopted == 3
    assert pages_of(tier) == {"formats": 3}
    tier.close()


def test_without_the_file_of_writers_they_are_unknown(tmp_path: Path) -> None:
    written(tmp_path, OTHERS["formats"], range(3))
    (tmp_path / WRITERS).write_text("{")
    tier = opened(tmp_path)
    assert pages_of(tier) == {"unknown": 3}
    assert tier.other_writers() == []
    tier.close()


def test_what_does_not_say_who_wrote_it_may_be_ours(tmp_path: Path) -> None:
    written(tmp_path, None, range(3))
    tier = opened(tmp_path)
    assert tier.usage().foreign == {}
    assert read_back(tier, made_page(0)) == bytes(made_page(0).data)
    tier.close()


def test_whoever_does_not_write_calls_nothing_foreign(tmp_path: Path) -> None:
    written(tmp_path, OURS, range(3))
    tier = opened(tmp_path, None)
    assert tier.usage().foreign == {}
    assert tier.other_writers() == []
    assert {row.writer for row in tier.rows()} == {OURS.tag}
    assert tier.writers[OURS.tag] == OURS
    tier.close()


def test_the_file_of_writers_stays_small(tmp_path: Path) -> None:
    for number in range(60):
        known_writers(tmp_path, Writer(f"{number:064}", "f" * 100))
        assert (tmp_path / WRITERS).stat().st_size <= WRITERS_BYTES
    known = known_writers(tmp_path, None)
    assert 10 < len(known) < 60
    assert Writer(f"{59:064}", "f" * 100).tag in known


@pytest.mark.parametrize(
    "said",
    ["", "[]", "[3]", "{}", '[{"weights": 1}]', "\x00", json.dumps([{"weights": "w", "formats": "f", "keys": "1"}])],
)
def test_whatever_the_file_holds_is_survived(tmp_path: Path, said: str) -> None:
    (tmp_path / WRITERS).write_text(said)
    assert list(known_writers(tmp_path, OURS).values()) == [OURS]
    assert list(known_writers(tmp_path, None).values()) == [OURS]


def test_a_disk_that_refuses_keeps_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known_writers(tmp_path, OURS)
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError("full")))
    assert len(known_writers(tmp_path, OTHERS["weights"])) == 2
    assert list(known_writers(tmp_path, None).values()) == [OURS]


def test_the_tag_covers_what_keys_cover() -> None:
    tags = {writer.tag for writer in (OURS, *OTHERS.values())}
    assert len(tags) == 4
    assert all(0 < tag < 2**32 for tag in tags)
    assert Writer("weights", "formats", model="another name").tag == OURS.tag
