"""Keys are part of the on-disk and on-wire contract: these vectors must never change for KEY_VERSION 1."""

from __future__ import annotations

from kvloom.memory.keys import chunk_root, extend_keys, left_key, page_key, root_key

ROOT = root_key(weights="w" * 64, formats="dense-kT-16:full", salt=None)


def test_golden_vectors() -> None:
    assert ROOT.hex() == "aab925dc529a64184ef03d2c6ffa7d619bef5f5c743e886b8de8e07da37fff80"
    assert page_key(ROOT, range(16)).hex() == "51cc20cb56319875b019f858df00136d2e1fde3e4b5bcc9821476b8ec88a320c"
    salted = root_key(weights="w" * 64, formats="dense-kT-16:full", salt="tenant", adapter="lora", media=["m"])
    assert salted.hex() == "0e5f063cb615f24f39d06e609099bc18017afa54431177dbda8f798904ad03f6"


def test_every_field_matters() -> None:
    base = {"weights": "w", "formats": "f", "adapter": None, "salt": None, "media": ()}
    changed = [{"weights": "x"}, {"formats": "g"}, {"adapter": "a"}, {"salt": ""}, {"salt": "s"}, {"media": ("m",)}]
    keys = {root_key(**base), *(root_key(**base | change) for change in changed)}
    assert len(keys) == len(changed) + 1


def test_keys_chain_over_whole_pages_only() -> None:
    keys: list = []
    extend_keys(keys, ROOT, list(range(40)))
    assert len(keys) == 2
    assert keys[1] == page_key(keys[0], range(16, 32))
    grown = list(keys)
    extend_keys(grown, ROOT, list(range(48)))
    assert grown[:2] == keys
    assert len(grown) == 3


def test_what_a_method_leaves_is_named_like_no_page() -> None:
    keys = {left_key(ROOT, b"a"), left_key(ROOT, b"b"), left_key(page_key(ROOT, range(16)), b"a")}
    assert len(keys | {ROOT, page_key(ROOT, range(16)), page_key(ROOT, b"a")}) == 6
    assert left_key(ROOT, b"a").hex() == "3a9702b93cf3bde8a9587484cf7a1718e540d13de1717119fc2e46ab88959fdd"


def test_passages_computed_alone_have_a_root_of_their_own() -> None:
    assert len({ROOT, chunk_root(ROOT), chunk_root(chunk_root(ROOT)), left_key(ROOT, b"chunk")}) == 4
    assert chunk_root(ROOT).hex() == "29470e4b6b937d60e41a35ce038c9f2b6a6f624bb800395911bc300f25046d30"
