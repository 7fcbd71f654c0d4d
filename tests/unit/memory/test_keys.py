"""Keys are part of the on-disk and on-wire contract: these vectors must never change for KEY_VERSION 1."""

from __future__ import annotations

from kvloom.memory.keys import (
    chunk_root,
    extend_keys,
    imported_root,
    kvchunk_key,
    left_key,
    namespace_of,
    page_key,
    root_key,
)

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
    assert len({ROOT, chunk_root(ROOT), imported_root(chunk_root(ROOT)), imported_root(ROOT)}) == 4
    root = root_key(weights="w", formats="f")
    assert imported_root(chunk_root(root)).hex() == "5121b0e02b6fa07331561dee75996929028226c08e0f17b88694d70ab29a9e97"


def test_files_of_passages_are_named_by_all_that_they_are_of() -> None:
    base = {"model": "m", "tokenizer": "t", "namespace": "", "kind": "isolated", "tokens": [1, 2], "slice_of": (0, 1)}
    assert kvchunk_key(**base).hex() == "dd01140ec8072093e320c327e1ff900e4e214690aa3de2ef0f598e72cee0dc0c"
    changed = [
        *({"model": "n"}, {"tokenizer": "u"}, {"namespace": "n"}, {"kind": "k"}),
        *({"tokens": [1]}, {"tokens": [2, 1]}, {"slice_of": (0, 2)}, {"slice_of": (1, 2)}),
    ]
    assert len({kvchunk_key(**base), *(kvchunk_key(**base | change) for change in changed)}) == len(changed) + 1


def test_a_namespace_does_not_tell_its_salt() -> None:
    assert namespace_of(None) == ""
    assert namespace_of("mine") == "3ddd66a70f4bef10aeb738a93aee5e8408caa76baf2f541384e71d3dae998c4e"
    assert len({namespace_of(None), namespace_of(""), namespace_of("a"), namespace_of("b")}) == 4
