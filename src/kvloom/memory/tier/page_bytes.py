"""One page as one string of bytes: the header (``page_header``), then the page's bytes, and nothing after them."""

from __future__ import annotations

from kvloom.memory.tier.base import Fault, Place, StoredPage, TierFault
from kvloom.memory.tier.page_header import HEADER_BYTES, check_header, pack_header, payload_digest, unpack_header


def page_bytes(page: StoredPage) -> bytes:
    return b"".join((pack_header(page), page.data))


def read_page_bytes(value: bytes, place: Place, tokens: tuple[int, ...], into: memoryview) -> None:
    """Fill ``into``, and verify place, tokens, length and digest. Raises TierFault: SHORT, CORRUPT or DIFFERS."""
    header = unpack_header(value[:HEADER_BYTES])
    check_header(header, place, tokens, into.nbytes)
    payload = memoryview(value)[HEADER_BYTES:]
    if payload.nbytes < into.nbytes:
        raise TierFault(Fault.SHORT, f"{payload.nbytes} bytes of a page of {into.nbytes}")
    if payload.nbytes > into.nbytes:
        raise TierFault(Fault.CORRUPT, f"{payload.nbytes} bytes of a page of {into.nbytes}")
    into[:] = payload
    if payload_digest(into) != header.digest:
        raise TierFault(Fault.CORRUPT, "the page's bytes are not those that were written")
