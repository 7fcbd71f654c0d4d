"""Identities of a text's pages: by key, and by content, which is used only to explain misses."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.index import content_hash
from kvloom.memory.keys import extend_keys, left_key
from kvloom.segment import PageKey


@dataclass(slots=True, eq=False)
class PageNames:
    """``keys`` and ``contents`` identify the whole pages of ``tokens``, up to the last call of ``extend``.

    ``root``: the key of the empty prefix. ``limit``: KV of later tokens depends on more than the tokens before, so that
    only the first so many have names; None: all. ``method_id``: of the method that compresses these; None: what
    it leaves has no name.
    """

    root: PageKey
    tokens: list[int]
    keys: list[PageKey] = field(default_factory=list)
    contents: list[int] = field(default_factory=list)
    limit: int | None = None
    method_id: bytes | None = None

    @property
    def stop(self) -> int:
        """Tokens from here on cannot be found, nor be published."""
        return len(self.tokens) if self.limit is None else min(self.limit, len(self.tokens))

    def extend(self) -> None:
        """Compute the names of whole pages added to ``tokens``."""
        extend_keys(self.keys, self.root, self.tokens if self.limit is None else self.tokens[: self.limit])
        for index in range(len(self.contents), len(self.keys)):
            before = self.contents[index - 1] if index else 0
            self.contents.append(content_hash(before, self.page_tokens(index)))

    def cut(self, length: int) -> list[PageKey]:
        """Keep only the first ``length`` tokens. Returns the keys that are no longer valid."""
        del self.tokens[length:], self.contents[length // PAGE_TOKENS :]
        gone = self.keys[length // PAGE_TOKENS :]
        del self.keys[length // PAGE_TOKENS :]
        return gone

    def parent_key(self, index: int) -> PageKey:
        """Identity of everything before page ``index``."""
        return self.keys[index - 1] if index else self.root

    def left(self) -> tuple[PageKey, list[int]] | None:
        """The name of what the method leaves of the first ``limit`` tokens: a prefix, and tokens as if after it.

        No page has this prefix, so that nobody who looks for exact KV finds it.
        """
        if self.method_id is None or self.limit is None:
            return None
        index = self.limit // PAGE_TOKENS
        return left_key(self.parent_key(index), self.method_id), self.page_tokens(index)

    def page_tokens(self, index: int) -> list[int]:
        """The tokens of page ``index`` that have names; the last page may have fewer."""
        return self.tokens[index * PAGE_TOKENS : min((index + 1) * PAGE_TOKENS, self.stop)]
