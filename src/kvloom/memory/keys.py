"""Identity of KV: the one place where keys are built.

    root = SHA-256(CBOR {v, weights, adapter, format, salt, media})          what the bytes depend on besides tokens
    key  = SHA-256(CBOR {v, parent, tokens})                                 parent: the root or the page before
    left = SHA-256(CBOR {v, parent, method})                                 the parent of what a method left of a text
    chunk = SHA-256(CBOR {v, chunk: root})                                   the root of passages computed alone
    lossy = SHA-256(CBOR {v, codec, lossy: key})                             a page's copy in a codec that rounds

CBOR is canonical (RFC 8949, section 4.2), so a key is the same on every machine. Golden vectors are in the tests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import cbor2

from kvloom.memory.format import PAGE_TOKENS
from kvloom.segment import PageKey

KEY_VERSION = 1


def root_key(
    *,
    weights: str,
    formats: str,
    adapter: str | None = None,
    salt: str | None = None,
    media: Sequence[str] = (),
) -> PageKey:
    """Key of the empty prefix: everything that changes KV bytes.

    ``weights`` names the weights' content and the settings they run with (RoPE, windows), ``formats`` codecs and
    layout.
    """
    fields = {"adapter": adapter, "format": formats, "media": list(media), "salt": salt, "weights": weights}
    return _digest({"v": KEY_VERSION, **fields})


def page_key(parent: PageKey, tokens: Sequence[int]) -> PageKey:
    """Key of a page that holds ``tokens`` after the prefix named by ``parent``."""
    return _digest({"v": KEY_VERSION, "parent": bytes(parent), "tokens": list(tokens)})


def left_key(parent: PageKey, method: bytes) -> PageKey:
    """What stands for the prefix named by ``parent`` where ``method`` has compressed it, and a text after it."""
    return _digest({"v": KEY_VERSION, "parent": bytes(parent), "method": method})


def chunk_root(root: PageKey) -> PageKey:
    """Key of the empty prefix of a passage that was computed alone, to be read at any position of other texts.

    Its KV has the bits of a text that begins with the passage, but is kept apart: what is read elsewhere than where it
    was computed never answers an exact look-up, and has a share of the memory of its own.
    """
    return _digest({"v": KEY_VERSION, "chunk": bytes(root)})


def lossy_key(key: PageKey, codec: str) -> PageKey:
    """What a copy of a page in a codec that rounds is kept under: no exact look-up finds it."""
    return _digest({"v": KEY_VERSION, "codec": codec, "lossy": bytes(key)})


def extend_keys(keys: list[PageKey], root: PageKey, tokens: Sequence[int]) -> None:
    """Append the keys of all whole pages of ``tokens`` that ``keys`` does not have yet."""
    while (len(keys) + 1) * PAGE_TOKENS <= len(tokens):
        start = len(keys) * PAGE_TOKENS
        keys.append(page_key(keys[-1] if keys else root, tokens[start : start + PAGE_TOKENS]))


def _digest(fields: dict[str, object]) -> PageKey:
    return PageKey(hashlib.sha256(cbor2.dumps(fields, canonical=True)).digest())
