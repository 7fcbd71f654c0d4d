"""``llm.chunks``: passages that are computed once, alone, so that prompts can have them anywhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from kvloom.engine.cache_params import KeptAs
from kvloom.engine.chunks.computing import (
    Added,
    Compute,
    Computing,
    Progress,
    computed_alone,
    nobody,
    request_kind,
)
from kvloom.engine.chunks.exchange import Exchange
from kvloom.engine.chunks.passage import Given, Passage, PassageTokenizer, passage_of
from kvloom.engine.chunks.stored import StoredChunk, chunks_in_ram, find
from kvloom.engine.driving import NO_ANSWER
from kvloom.engine.engine import Engine
from kvloom.errors import RequestError
from kvloom.memory.kvchunk import ChunkRefused, KvChunk, Library, Refusal, read_chunk, touch

_AT_ONCE = 16
"""Passages that are computed together, to be written then."""

_KINDS: tuple[KeptAs, ...] = "chunk", "imported"

_WRITTEN_S = 60.0
"""For what was imported or computed to reach tiers."""

_BATCHES_IN_RAM = 4
"""So many have room there: other requests hold some of it, and pages go by the policy, not by age."""


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
    keep all of it, and so do kvchunk files.

    ``now``: seconds since 1970, when files are used. ``refused``: files that were not used, by reason.
    """

    engine: Engine
    tokenizer: PassageTokenizer
    compute: Compute
    now: Callable[[], float] = time.time
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
        return self._computed(passages, salt, progress, lambda found: found.kept)

    def bring(
        self, passages: Given | Sequence[Given], *, salt: str | None = None, progress: Progress | None = None
    ) -> list[Added]:
        """As ``add``, and have passages in RAM, as far as there is room: what tiers have is loaded where that is
        faster, but for an unfinished last page, which is computed.
        """
        return self._computed(passages, salt, progress, lambda found: found.in_ram)

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
        asked, tell = self._passages(passages), progress or nobody
        library = Library(Path(directory).expanduser(), max_bytes, self.now)
        paths = [library.path_of(self._exchange.identity(each, salt).key) for each in asked]
        for start in range(0, len(asked), _AT_ONCE):
            batch = range(start, min(start + _AT_ONCE, len(asked)))
            lacking = [n for n in batch if not touch(paths[n], self.now())]
            added = self._in_ram([asked[n] for n in lacking], salt)
            for n in lacking:
                library.write(self._exchange.take_out(asked[n], salt) or self._alone(asked[n], salt))
            computed = {n: each.computed for n, each in zip(lacking, added, strict=True)}
            for n in batch:
                tell(Added(n, len(asked[n].tokens), computed.get(n, 0)))
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

    def _computed(
        self,
        given: Given | Sequence[Given],
        salt: str | None,
        progress: Progress | None,
        enough: Callable[[StoredChunk], bool],
    ) -> list[Added]:
        """``enough``: whether what there is of a passage will do."""
        work = Computing(self._passages(given), self.compute, salt, progress or nobody)
        there = {each: find(self.engine, each, salt) for each in work.passages}
        lacking = {each: found for each, found in there.items() if found is None or not enough(found)}
        work.skip(each for each in there if each not in lacking)
        batches = [
            (batch, kept_as)
            for kept_as in _KINDS
            for batch in self._batches([each for each, found in lacking.items() if request_kind(found) == kept_as])
        ]
        written = True
        for number, (batch, kept_as) in enumerate(batches):
            # Before the next displace it; for a tier that does not keep up nobody waits twice.
            written = written and (number == 0 or self.engine.tiers.flush(_WRITTEN_S))
            work.run(batch, kept_as)
        return work.results()

    def _batches(self, passages: Sequence[Passage]) -> Iterator[list[Passage]]:
        """Of a part of RAM each, where there is a tier to write them to; otherwise all at once."""
        engine, batch, filled = self.engine, list[Passage](), 0
        room = engine.ledger.arena.budget_bytes // _BATCHES_IN_RAM
        for passage in passages:
            size = engine.layout.bytes_for(len(passage.tokens))
            if batch and filled + size > room and engine.tiers.levels:
                yield batch
                batch, filled = [], 0
            batch.append(passage)
            filled += size
        if batch:
            yield batch

    def _in_ram(self, passages: Sequence[Passage], salt: str | None) -> list[Added]:
        """Have passages in RAM, computed here, as far as there is room."""
        work = Computing(passages, self.compute, salt)
        work.run(work.passages)
        return work.results()

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
            touch(path, self.now())
            tokens = len(chunk.identity.tokens)
            return Imported(path, tokens, self._exchange.put_in(chunk, salt))
        except ChunkRefused as refused:
            self.refused[refused.refusal] += 1
            return Imported(path, tokens, None, refused.refusal)


def _several(given: Given | Sequence[Given]) -> list[Given]:
    """One passage or several, as a list."""
    if isinstance(given, str):
        return [given]
    if given and all(isinstance(each, int) for each in given):
        return [cast("Sequence[int]", given)]
    return list(cast("Sequence[Given]", given))
