"""Compiled grammars, kept by what they were made from."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cached_property
from typing import TYPE_CHECKING

from kvloom.engine.structured import StructuredOutputsParams

if TYPE_CHECKING:
    import llguidance

    from kvloom.engine.grammar.compiled import Grammar
    from kvloom.engine.grammar.vocabulary import Vocabulary

_Key = tuple[str, str, bool, str | None, bool]


class Grammars:
    """Of one model. Any thread may ask, and one compiles at a time.

    ``count``: how many are kept, the last ones used.
    """

    def __init__(self, vocabulary: Vocabulary, vocab_size: int, count: int = 32) -> None:
        self._vocabulary, self._vocab_size, self._count = vocabulary, vocab_size, count
        self._kept: OrderedDict[_Key, Grammar] = OrderedDict()
        self._table, self._compiling = threading.Lock(), threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, asked: StructuredOutputsParams) -> Grammar:
        """Compile it unless it is here. Raises ParamsError when it is no grammar, or takes too much."""
        key = _key(asked)
        if (kept := self._find(key)) is not None:
            return kept
        from kvloom.engine.grammar.compiled import Grammar

        with self._compiling:
            if (kept := self._find(key)) is not None:  # compiled while this thread waited
                return kept
            grammar = Grammar(self._tokens, asked)
        with self._table:
            self._kept[key] = grammar
            while len(self._kept) > self._count:
                self._kept.popitem(last=False)
        return grammar

    @cached_property
    def _tokens(self) -> llguidance.LLTokenizer:
        from kvloom.engine.grammar.vocabulary import library_tokens

        return library_tokens(self._vocabulary, self._vocab_size)

    def _find(self, key: _Key) -> Grammar | None:
        with self._table:
            grammar = self._kept.get(key)
            if grammar is None or grammar.spoiled:
                return None
            self._kept.move_to_end(key)
            return grammar


def _key(asked: StructuredOutputsParams) -> _Key:
    return asked.kind, asked.source, asked.disable_any_whitespace, asked.whitespace_pattern, asked.lenient
