"""What stands before a page's bytes wherever they are kept outside of this process: version 1.

All numbers are little-endian. The header has ``HEADER_BYTES`` = 192 bytes; the payload follows at once.

    offset  bytes  field
         0      8  magic            the ASCII letters KVLOOMPG
         8      2  version          1
        10      2  group            layer group of the model
        12      4  header bytes     192
        16      8  payload bytes    of the page, as the arena had it
        24      8  position         of the page's first token in its context
        32     32  key              SHA-256, see ``memory.keys``: weights, formats, salt, tokens up to the page's last
        64     32  parent           key of the prefix before the page
        96     16  payload digest   XXH3-128 of the payload, in xxHash's canonical (big-endian) form
       112      4  tokens           how many, at most 16
       116      4  writer           a number for who wrote it, see ``writer``; 0: it is not said
       120     64  token ids        16 of 4 bytes; those that are not there are zero
       184      8  header digest    XXH3-64 of the 184 bytes before, as a number

Every bit is covered by a digest. The digests detect damage, not forgery: who can write here can write KV.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import xxhash

from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.tier.base import Fault, Place, StoredPage, TierFault
from kvloom.segment import PageKey

MAGIC = b"KVLOOMPG"
VERSION = 1

_FIELDS = struct.Struct(f"<8sHHIQQ32s32s16sII{PAGE_TOKENS}I")
_CHECK = struct.Struct("<Q")
HEADER_BYTES = _FIELDS.size + _CHECK.size


@dataclass(frozen=True, slots=True)
class PageHeader:
    """A page without its bytes: ``payload_bytes`` of them, whose ``digest`` is 16 bytes."""

    place: Place
    parent: PageKey
    position: int
    tokens: tuple[int, ...]
    payload_bytes: int
    digest: bytes
    writer: int = 0


def payload_digest(data: memoryview) -> bytes:
    """XXH3-128 of contiguous bytes."""
    return xxhash.xxh3_128_digest(data)


def pack_header(page: StoredPage, writer: int = 0) -> bytes:
    """The header of a page of at most 16 tokens. ``writer``: who wrote it, as a number."""
    assert len(page.tokens) <= PAGE_TOKENS, f"a page has at most {PAGE_TOKENS} tokens, not {len(page.tokens)}"
    fields = _FIELDS.pack(
        MAGIC,
        VERSION,
        page.place.group,
        HEADER_BYTES,
        page.data.nbytes,
        page.position,
        page.place.key,
        page.parent,
        payload_digest(page.data),
        len(page.tokens),
        writer,
        *page.tokens,
        *(0,) * (PAGE_TOKENS - len(page.tokens)),
    )
    return fields + _CHECK.pack(xxhash.xxh3_64_intdigest(fields))


def unpack_header(raw: bytes) -> PageHeader:
    """Read what ``pack_header`` made. Raises TierFault: SHORT, CORRUPT, or DIFFERS for another version."""
    if len(raw) < HEADER_BYTES:
        raise TierFault(Fault.SHORT, f"{len(raw)} bytes are less than a header of {HEADER_BYTES}")
    fields = raw[: _FIELDS.size]
    if _CHECK.unpack_from(raw, _FIELDS.size)[0] != xxhash.xxh3_64_intdigest(fields):
        raise TierFault(Fault.CORRUPT, "the header is damaged")
    magic, version, group, _, size, position, key, parent, digest, count, writer, *tokens = _FIELDS.unpack(fields)
    if (magic, version) != (MAGIC, VERSION):
        raise TierFault(Fault.DIFFERS, f"a page of {magic!r}, version {version}: this is {MAGIC!r}, version {VERSION}")
    place = Place(PageKey(key), group)
    return PageHeader(place, PageKey(parent), position, tuple(tokens[:count]), size, digest, writer)


def check_header(header: PageHeader, place: Place, tokens: tuple[int, ...], payload_bytes: int) -> None:
    """Raises TierFault when it is not that of the page that was asked for: CORRUPT at another place, else DIFFERS."""
    if header.place != place:
        raise TierFault(Fault.CORRUPT, "another page lies in this one's place")
    if header.tokens != tokens:
        raise TierFault(Fault.DIFFERS, "the page is of other tokens")
    if header.payload_bytes != payload_bytes:
        raise TierFault(
            Fault.DIFFERS, f"the page has {header.payload_bytes} bytes, {payload_bytes} were asked for: another format"
        )
