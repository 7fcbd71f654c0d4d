"""``llm.chunks``: passages that are computed once, alone, so that prompts can have them anywhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from kvloom.engine.cache_params import CacheParams, KeptAs
from kvloom.engine.chunks.exchange import Exchange
from kvloom.engine.chunks.passage import Passage, PassageTokenizer, passage_of
from kvloom.engine.chunks.stored import StoredChunk, chunks_in_ram, find
from kvloom.engine.driving import NO_ANSWER, Ended
from kvloom.engine.engine import Engine
from kvloom.engine.outputs import RequestOutput
from kvloom.errors import KvloomError, RequestError
from kvloom.memory.kvchunk import ChunkRefused, KvChunk, Library, Refusal, read_chunk, touch

Given = str | Sequence[int]
"""A passage: its text, or its token ids without those that stand before every text."""

Compute = Callable[[Sequence[Sequence[int]], CacheParams, Ended], None]
"""Computes prompts, for their KV alone: see ``Driver.compute``."""

Progress = Callable[["Added"], None]
"""Is called with every passage as it is done."""

_AT_ONCE = 16
"""Passages that are computed together, to be written then."""

_WRITTEN_S = 60.0
"""For what was imported to reach tiers."""


@dataclass(frozen=True, slots=True)
class Added:
    """``number``: of the passage in what was asked for. ``computed``: tokens that were not there yet."""

    number: int
    tokens: int
    computed: int


@dataclass(frozen=True, slots=True)
class Imported:
    """``kept_as``: None when the file was not used; ``refusal`` says why."""

    path: Path
    tokens: int
    kept_as: KeptAs | None
    refusal: Refusal | None = None


@dataclass
class Chunks:
    """The chunk store of an LLM.

    A chunk is a passage whose KV was computed as if nothing came before it. It lies in ordinary pages, within
    ``kv_bytes``, under keys of its own: no prompt finds it by beginning alike, and its salt is a part of them. Tiers
    keep its whole pages; the rest, at most 15 tokens, is computed again when it is loaded. A kvchunk file has all of
    it.

    ``refused``: files that were not used, by reason.
    """

    engine: Engine
    tokenizer: PassageTokenizer
    compute: Compute
    refused: Counter[Refusal] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._exchange = Exchange(self.engine, self.tokenizer)

    def add(
        self, passages: Given | Sequence[Given], *, salt: str | None = None, progress: Progress | None = None
    ) -> list[Added]:
        """Compute passages alone, and keep their KV: what is there, in RAM or in a tier, is not computed again.

        They are answered like prompts, many at a time. Raises RequestError for passages that can never be computed,
        before anything runs; otherwise the first error, after all others have been computed.
        """
        asked, tell = self._passages(passages), progress or _nobody
        numbers: dict[Passage, list[int]] = {}
        for n, each in enumerate(asked):
            numbers.setdefault(each, []).append(n)
        done, errors = dict[int, Added](), list[KvloomError]()

        def finish(passage: Passage, computed: int) -> None:
            first, *repeats = numbers[passage]
            done[first] = Added(first, len(passage.tokens), computed)
            done.update((n, Added(n, len(passage.tokens), 0)) for n in repeats)
            for n in numbers[passage]:
                tell(done[n])

        kept = [each for each in numbers if self._is_kept(each, salt)]
        lacking = [each for each in numbers if each not in set(kept)]
        for each in kept:
            finish(each, 0)

        def ended(number: int, output: RequestOutput) -> None:
            if output.error is not None:
                errors.append(output.error)
            finish(lacking[number], output.metrics.computed_tokens)

        self.compute([each.tokens for each in lacking], computed_alone(salt), ended)
        if errors:
            raise errors[0]
        return [done[n] for n in range(len(asked))]

    def find(self, passage: Given, *, salt: str | None = None) -> StoredChunk | None:
        """Where the KV of a passage is; None: nowhere."""
        return find(self.engine, self.passage(passage), salt)

    def ls(self, *, salt: str | None = None) -> list[StoredChunk]:
        """What is in RAM: of passages that were evicted in part, what is left."""
        return chunks_in_ram(self.engine, salt, len(self.tokenizer.lead))

    def export_to(
        self,
        directory: str | Path,
        passages: Given | Sequence[Given],
        *,
        salt: str | None = None,
        max_bytes: int | None = None,
        progress: Progress | None = None,
    ) -> list[Path]:
        """Write passages as kvchunk files; what is not in RAM is loaded or computed first, what is written stays.

        ``max_bytes``: of the directory; what was used least recently goes then. Raises RequestError as ``add`` does,
        and where RAM has no room for one; ChunkRefused when a file cannot be written.
        """
        asked, library = self._passages(passages), Library(Path(directory).expanduser(), max_bytes)
        paths, tell = list[Path](), progress or _nobody
        for start in range(0, len(asked), _AT_ONCE):
            batch = asked[start : start + _AT_ONCE]
            keys = [self._exchange.identity(each, salt).key for each in batch]
            lacking = [
                each for each, key in zip(batch, keys, strict=True) if not touch(library.path_of(key), time.time())
            ]
            computed = self._in_ram(lacking, salt)
            for each in lacking:
                library.write(self._exchange.take_out(each, salt) or self._alone(each, salt))
            for n, (each, key) in enumerate(zip(batch, keys, strict=True), start):
                paths.append(library.path_of(key))
                tell(Added(n, len(each.tokens), computed.get(each, 0)))
        return paths

    def import_from(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        salt: str | None = None,
        progress: Callable[[Imported], None] | None = None,
    ) -> list[Imported]:
        """Put kvchunk files into pages, from where they go to tiers as all pages do.

        A file that is damaged or of something else is a miss, and counted: nothing of it is used. Raises RequestError
        where RAM has no room for one.
        """
        done = []
        for path in [paths] if isinstance(paths, str | Path) else paths:
            done.append(self._import(Path(path), salt))
            self.engine.tiers.flush(_WRITTEN_S)  # before it is evicted for the next one
            if progress is not None:
                progress(done[-1])
        return done

    def passage(self, given: Given) -> Passage:
        """Raises RequestError."""
        return passage_of(given, self.tokenizer, self.engine.max_len)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _passages(self, given: Given | Sequence[Given]) -> list[Passage]:
        several = _several(given)
        passages = [self.passage(each) for each in several]
        for each in passages:
            self.engine.intake.validate(list(each.tokens), NO_ANSWER, computed_alone(None))
        return passages

    def _is_kept(self, passage: Passage, salt: str | None) -> bool:
        found = find(self.engine, passage, salt)
        return found is not None and found.kept

    def _in_ram(self, passages: Sequence[Passage], salt: str | None) -> dict[Passage, int]:
        """Have passages in RAM, if there is room. Returns of how many tokens the KV had to be computed."""
        computed: dict[Passage, int] = {}
        errors: list[KvloomError] = []

        def ended(number: int, output: RequestOutput) -> None:
            computed[passages[number]] = output.metrics.computed_tokens
            if output.error is not None:
                errors.append(output.error)

        self.compute([each.tokens for each in passages], computed_alone(salt), ended)
        if errors:
            raise errors[0]
        return computed

    def _alone(self, passage: Passage, salt: str | None) -> KvChunk:
        """One that others have displaced. Raises RequestError."""
        self._in_ram([passage], salt)
        chunk = self._exchange.take_out(passage, salt)
        if chunk is None:
            raise RequestError(
                f"a passage of {len(passage.tokens)} tokens does not stay in RAM until it is written",
                hint="raise kv_bytes",
            )
        return chunk

    def _import(self, path: Path, salt: str | None) -> Imported:
        tokens = 0
        try:
            chunk = read_chunk(path)
            touch(path, time.time())
            tokens = len(chunk.identity.tokens)
            return Imported(path, tokens, self._exchange.put_in(chunk, salt))
        except ChunkRefused as refused:
            self.refused[refused.refusal] += 1
            return Imported(path, tokens, None, refused.refusal)


def computed_alone(salt: str | None) -> CacheParams:
    """How the request of a passage uses the cache."""
    return CacheParams(salt=salt, kept_as="chunk")


def _nobody(added: Added) -> None:
    """Is not told."""


def _several(given: Given | Sequence[Given]) -> list[Given]:
    """One passage or several, as a list."""
    if isinstance(given, str):
        return [given]
    if given and all(isinstance(each, int) for each in given):
        return [cast("Sequence[int]", given)]
    return list(cast("Sequence[Given]", given))
