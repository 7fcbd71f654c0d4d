"""The file of a page: its layout, and that no damage to it goes unnoticed."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from kvloom.memory.keys import page_key
from kvloom.memory.tier.base import Fault, StoredPage, TierFault
from kvloom.memory.tier.page_file import (
    file_bytes,
    page_name,
    place_of,
    read_file,
    read_header,
    verify_file,
    write_file,
)
from kvloom.memory.tier.page_header import HEADER_BYTES, pack_header, unpack_header
from tier_cases import ROOT, made_page

PAGE = replace(made_page(2, 1), data=made_page(2, 1).data[:600])
FILE_BYTES = HEADER_BYTES + 600


def reading(path: Path, page: StoredPage = PAGE) -> bytes:
    into = bytearray(page.data.nbytes)
    read_file(path, page.place, page.tokens, memoryview(into))
    return bytes(into)


def faults_of(content: bytes, page: StoredPage = PAGE) -> list[Fault | None]:
    """What both ways to read a file with this content say of it."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "page"
        path.write_bytes(content)
        return [fault_of(lambda: reading(path, page)), fault_of(lambda: verify_file(path, page.place))]


def fault_of(act: Callable[[], object]) -> Fault | None:
    try:
        act()
    except TierFault as fault:
        return fault.fault
    return None


def whole(page: StoredPage = PAGE) -> bytes:
    return pack_header(page) + bytes(page.data)


def test_the_layout_is_the_one_that_is_documented(tmp_path: Path) -> None:
    """Read here as somebody else would, by the table alone."""
    write_file(tmp_path / "page", PAGE)
    raw = (tmp_path / "page").read_bytes()
    assert raw[:8] == b"KVLOOMPG"
    assert struct.unpack_from("<HHIQQ", raw, 8) == (1, 1, 192, 600, 32)
    assert raw[32:64] == page_key(ROOT, range(32, 48)) == PAGE.place.key
    assert raw[64:96] == ROOT
    assert raw[96:112].hex() == xxhash.xxh3_128_hexdigest(raw[192:])
    assert struct.unpack_from("<18I", raw, 112) == (16, 0, *range(32, 48))
    assert struct.unpack_from("<Q", raw, 184)[0] == xxhash.xxh3_64_intdigest(raw[:184])
    assert raw[192:] == bytes(PAGE.data)
    assert len(raw) == file_bytes(600) == FILE_BYTES
    assert (tmp_path / "page").stat().st_mode & 0o077 == 0, "for its owner alone"


def test_a_header_is_read_as_it_was_written() -> None:
    for page in (PAGE, replace(PAGE, tokens=()), replace(PAGE, tokens=(2**32 - 1,), position=2**40)):
        header = unpack_header(pack_header(page))
        assert (header.place, header.parent, header.position, header.tokens, header.payload_bytes) == (
            *(page.place, page.parent, page.position, page.tokens),
            600,
        )


def test_names_and_places_are_the_same_thing() -> None:
    assert place_of(page_name(PAGE.place)) == PAGE.place
    name = page_name(PAGE.place)
    for wrong in (name.upper(), name[1:], name + "x", name.replace("-1", "-01"), f".{name}", "lock", ""):
        assert place_of(wrong) is None


def test_what_is_whole_is_read() -> None:
    assert faults_of(whole()) == [None, None]


@given(bit=st.integers(0, 8 * FILE_BYTES - 1))
@settings(deadline=None, max_examples=300)
def test_one_flipped_bit_is_a_fault(bit: int) -> None:
    content = bytearray(whole())
    content[bit // 8] ^= 1 << bit % 8
    assert faults_of(bytes(content)) == [Fault.CORRUPT, Fault.CORRUPT]


@given(length=st.integers(0, FILE_BYTES - 1))
@settings(deadline=None, max_examples=100)
def test_a_file_that_was_cut_is_a_fault(length: int) -> None:
    assert faults_of(whole()[:length]) == [Fault.SHORT, Fault.SHORT]


@given(start=st.integers(0, FILE_BYTES - 1), length=st.integers(1, FILE_BYTES), fill=st.sampled_from([0, 255]))
@settings(deadline=None, max_examples=100)
def test_a_torn_file_is_a_fault(start: int, length: int, fill: int) -> None:
    """Blocks that never reached the disk read as zeros, or as what was there before."""
    content = bytearray(whole())
    end = min(FILE_BYTES, start + length)
    content[start:end] = bytes([fill]) * (end - start)
    expected = None if content == whole() else Fault.CORRUPT
    assert faults_of(bytes(content)) == [expected, expected]


@given(rest=st.binary(min_size=1, max_size=50))
@settings(deadline=None, max_examples=20)
def test_a_file_that_goes_on_is_a_fault(rest: bytes) -> None:
    assert faults_of(whole() + rest) == [Fault.CORRUPT, Fault.CORRUPT]


def test_a_page_in_anothers_place_is_a_fault() -> None:
    assert faults_of(whole(made_page(3, 1)), made_page(2, 1)) == [Fault.CORRUPT, Fault.CORRUPT]
    assert faults_of(whole(made_page(2, 0)), replace(made_page(2, 1), data=made_page(2, 0).data)) == [
        Fault.CORRUPT,
        Fault.CORRUPT,
    ]


def test_another_version_is_another_format() -> None:
    fields = bytearray(pack_header(PAGE)[:184])
    fields[8] = 2
    newer = bytes(fields) + struct.pack("<Q", xxhash.xxh3_64_intdigest(bytes(fields)))
    assert faults_of(newer + bytes(PAGE.data)) == [Fault.DIFFERS, Fault.DIFFERS]


def test_a_header_may_promise_anything() -> None:
    """No memory is taken for what is not there."""
    fields = bytearray(pack_header(PAGE)[:184])
    fields[16:24] = struct.pack("<Q", 2**60)
    huge = bytes(fields) + struct.pack("<Q", xxhash.xxh3_64_intdigest(bytes(fields)))
    assert faults_of(huge + bytes(PAGE.data)) == [Fault.DIFFERS, Fault.SHORT]


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    assert fault_of(lambda: reading(tmp_path / "none")) is Fault.GONE
    assert fault_of(lambda: read_header(tmp_path, PAGE.place)) is Fault.FAILED
    (tmp_path / "link").symlink_to(tmp_path / "page")
    write_file(tmp_path / "page", PAGE)
    assert fault_of(lambda: reading(tmp_path / "link")) is Fault.FAILED


def test_a_write_in_pieces_is_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take less than it was given."""
    monkeypatch.setattr(os, "writev", lambda file, parts: os.write(file, bytes(parts[0])[:100]))
    write_file(tmp_path / "page", PAGE)
    assert reading(tmp_path / "page") == bytes(PAGE.data)


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    write_file(tmp_path / "page", PAGE)
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "page", PAGE)
