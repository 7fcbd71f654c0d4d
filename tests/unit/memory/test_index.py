"""Look-up compares tokens, explains misses and survives holes."""

from __future__ import annotations

import dataclasses

import pytest

from kvloom.errors import InternalError
from kvloom.memory.index import Index, content_hash
from kvloom.memory.keys import page_key, root_key
from kvloom.segment import PageId, Why

ROOT = root_key(weights="w", formats="f")
A, B = list(range(16)), list(range(16, 32))
KEY_A = page_key(ROOT, A)
KEY_B = page_key(KEY_A, B)


def stored() -> Index:
    index = Index(2)
    index.add(ROOT, A, 0, content_hash(0, A), 0, PageId(1))
    index.add(KEY_A, B, 16, content_hash(1, B), 0, PageId(2))
    return index


def test_found_by_key_with_the_same_tokens() -> None:
    assert stored().find(KEY_A, A).pages == [1, None]


def test_a_key_collision_is_a_miss() -> None:
    index = stored()
    index.entries[KEY_A] = dataclasses.replace(index.entries[KEY_A], tokens=tuple(B))
    assert index.find(KEY_A, A) is None


def test_pages_after_a_hole_are_found() -> None:
    index = stored()
    index.forget(PageId(1), Why.EVICTED)
    assert index.find(KEY_A, A) is None
    assert index.find(KEY_B, B).pages[0] == 2


def test_the_first_page_of_a_group_stays() -> None:
    index = stored()
    assert index.add(ROOT, A, 0, 0, 0, PageId(9)) == 1
    assert index.add(ROOT, A, 0, 0, 1, PageId(9)) == 9


def test_nearest_is_token_granular() -> None:
    index = stored()
    index.add(ROOT, [0, 1, 99], 0, 7, 0, PageId(5))
    entry, shared = index.nearest(ROOT, [0, 1, 2, 3, 77])
    assert (entry.key, shared) == (KEY_A, 4)
    assert index.nearest(ROOT, [50]) is None


@pytest.mark.parametrize(
    ("tokens", "content", "why"),
    [([0, 1, 77], 1, Why.DIFFERS), ([50, 51], 1, Why.NEW), ([50], content_hash(0, A), Why.OTHER_SALT)],
)
def test_explain(tokens: list[int], content: int, why: Why) -> None:
    assert stored().explain(page_key(ROOT, tokens), ROOT, tokens, content) is why


def test_another_salt_stands_only_where_new_would() -> None:
    """So that counting it as new hides it wholly."""
    index, tokens = stored(), [*A[:3], 77]
    alone = index.explain(page_key(ROOT, tokens), ROOT, tokens, 99)
    index.add(KEY_B, [5], 16, 99, 0, PageId(9))
    assert index.explain(page_key(ROOT, tokens), ROOT, tokens, 99) is alone is Why.DIFFERS


def test_ghosts_tell_what_happened_and_vanish_when_stored_again() -> None:
    index = stored()
    index.forget(PageId(1), Why.EVICTED)
    assert index.explain(KEY_A, ROOT, A, 0) is Why.EVICTED
    index.add(ROOT, A, 0, 0, 0, PageId(8))
    index.forget(PageId(8), Why.RESET)
    assert index.explain(KEY_A, ROOT, A, 0) is Why.RESET


def test_announcements_belong_to_their_owner() -> None:
    index = stored()
    index.announce(KEY_A, "a")
    index.announce(KEY_A, "b")
    index.withdraw(KEY_A, "b")
    assert index.coming_from(KEY_A) == "a"
    index.withdraw(KEY_A, "a")
    assert index.coming_from(KEY_A) is None


def test_check_finds_a_misfiled_entry() -> None:
    index = stored()
    index.check()
    index.entries[KEY_A].tokens = tuple(B)
    with pytest.raises(InternalError):
        index.check()


def test_a_key_that_the_caller_has_is_used_and_audited() -> None:
    index = Index(1)
    index.add(ROOT, A, 0, 0, 0, PageId(1), KEY_A)
    assert index.find(KEY_A, A).pages == [1]
    index.check()
    index.add(KEY_A, B, 16, 0, 0, PageId(2), KEY_A[::-1])
    with pytest.raises(InternalError, match="a key that is not its own"):
        index.check()


def test_paths_are_the_longest_chains_below_a_root() -> None:
    index = stored()
    assert [[entry.tokens for entry in path] for path in index.paths(ROOT)] == [[tuple(A), tuple(B)]]
    assert [len(path) for path in index.paths(KEY_A)] == [1]
    assert list(index.paths(KEY_B)) == []
    index.add(KEY_A, [7], 16, 0, 0, PageId(3))
    index.add(ROOT, [9], 0, 0, 0, PageId(4))
    found = {tuple(entry.tokens for entry in path) for path in index.paths(ROOT)}
    assert found == {(tuple(A), tuple(B)), (tuple(A), (7,)), ((9,),)}
    index.forget(PageId(1), Why.EVICTED)
    assert [[entry.tokens for entry in path] for path in index.paths(ROOT)] == [[(9,)]], "nothing behind a hole"
