"""Documents under ids: each owner's own, as many as there is room for, and after a restart too."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvloom.config import TierConfig
from kvloom.engine.chunks.named import FILE, NamedDocuments, forget_documents
from kvloom.errors import ConfigError, RequestError


def test_the_last_text_of_an_id_counts_and_only_for_its_owner() -> None:
    named = NamedDocuments()
    named.keep("alice", "owl", "Owls hunt.")
    named.keep("bob", "owl", "Owls sleep.")
    named.keep("alice", "owl", "Owls hunt at night.")
    assert named.find("alice", "owl") == "Owls hunt at night."
    assert named.find("bob", "owl") == "Owls sleep."
    assert named.find("", "owl") is None
    assert named.find("alice", "fox") is None


def test_what_was_kept_first_goes_first() -> None:
    named = NamedDocuments(max_bytes=10)
    for name in ("a", "b", "c"):
        named.keep("", name, name * 4)
        named.keep("other", name, name)
    assert [named.find("", name) for name in "abc"] == [None, "bbbb", "cccc"]
    assert [named.find("other", name) for name in "abc"] == ["a", "b", "c"]
    named.keep("", "b", "b" * 5)
    named.keep("", "d", "dd")
    assert [named.find("", name) for name in "bcd"] == ["bbbbb", None, "dd"]


def test_bytes_are_counted_not_characters() -> None:
    named = NamedDocuments(max_bytes=8)
    named.keep("", "a", "éé")
    named.keep("", "b", "éé")
    named.keep("", "c", "x")
    assert [named.find("", name) for name in "abc"] == [None, "éé", "x"]
    with pytest.raises(RequestError, match="has 10 bytes, and at most 8"):
        named.keep("", "d", "ééééé")


@pytest.mark.parametrize("name", ["", "x" * 257, "a\nb", 3, None])
def test_ids_that_are_none(name: object) -> None:
    with pytest.raises(RequestError, match="1 to 256 printable characters"):
        NamedDocuments().keep("", name, "text")  # type: ignore[arg-type]


def test_a_text_that_is_none() -> None:
    with pytest.raises(RequestError, match="lone surrogate"):
        NamedDocuments().keep("", "a", "\ud800")


def test_they_outlive_the_process(tmp_path: Path) -> None:
    tiers = TierConfig(cache_dir=str(tmp_path))
    first = NamedDocuments.beside(tiers, 100)
    first.keep("", "owl", "Owls hunt.")
    again = NamedDocuments.beside(tiers, 15)  # nothing was closed: as after kill -9
    assert again.find("", "owl") == "Owls hunt."
    again.keep("", "fox", "Foxes.")
    assert again.find("", "owl") is None, "what was there before counts"
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
    first.close()
    again.close()
    forget_documents(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert NamedDocuments.beside(tiers, 100).find("", "fox") is None


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("this is no database, but long enough to be taken for one, " * 40)
    with pytest.raises(ConfigError, match="cannot be used for documents"):
        NamedDocuments(tmp_path / FILE)


def test_a_disk_that_fails_costs_a_document_and_nothing_else() -> None:
    named = NamedDocuments()
    named.close()
    named.keep("", "owl", "Owls hunt.")
    assert named.find("", "owl") is None
