"""``kvloom chunks add | export | import``: KV of passages out of a model, into files, and back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvloom.cli import backend
from kvloom.cli.chunk_care import files_of
from kvloom.cli.documents import Document, documents
from kvloom.cli.profile_progress import profile_bar
from kvloom.cli.say import bytes_text, say
from kvloom.cli.settings import Settings
from kvloom.config import EngineConfig, parse_bytes
from kvloom.engine.chunks import Added, Chunks, split
from kvloom.engine.chunks.named import NamedDocuments, check_name
from kvloom.engine.driving import Driver
from kvloom.errors import ConfigError
from kvloom.model.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Opened:
    chunks: Chunks
    tokenizer: Tokenizer


def add_chunks(
    model: str,
    texts: Sequence[Path],
    passage_tokens: int,
    salt: str | None,
    owner: str,
    as_json: bool,
    settings: Settings,
) -> None:
    """``owner``: name of the key whose requests may name the passages; empty where there are no keys."""
    config, found = _kept(settings.engine(model), "kvloom chunks export"), documents(texts)
    with _opened(config) as opened:
        passages = _passages(opened, found, passage_tokens)
        for passage in passages:
            check_name(passage.name)
        with _bar("passages", len(passages)) as advance:
            added = opened.chunks.add(_texts(passages), salt=salt, progress=lambda each: advance())
        facts = _added(opened, added) | {"ids": _named(config, passages, owner)}
    lines = [f"passages   {facts['passages']:,}, {facts['there']:,} of which were there", *_counts(facts)]
    if facts["ids"]:
        lines.append(f"ids        {facts['ids'][0]} ... {facts['ids'][-1]}")
    _print(facts, as_json, lines)
    if facts["missed_pages"]:
        say(f"{facts['missed_pages']:,} pages were evicted before they were written")
        say("hint: raise --kv-bytes, or add again")


def export_chunks(
    model: str,
    texts: Sequence[Path],
    passage_tokens: int,
    salt: str | None,
    into: Path,
    max_bytes: str | None,
    as_json: bool,
    settings: Settings,
) -> None:
    room, config, found = (
        None if max_bytes is None else parse_bytes(max_bytes),
        settings.engine(model),
        documents(texts),
    )
    added: list[Added] = []
    with _opened(config) as opened:
        passages = _passages(opened, found, passage_tokens)
        with _bar("passages", len(passages)) as advance:

            def told(each: Added) -> None:
                added.append(each)
                advance()

            paths = opened.chunks.export_to(into, _texts(passages), salt=salt, max_bytes=room, progress=told)
        facts = _added(opened, added)
    there = [path for path in dict.fromkeys(paths) if path.exists()]
    facts |= {"directory": str(into), "files": len(there), "bytes": sum(path.stat().st_size for path in there)}
    files = f"files      {facts['files']:,}, {bytes_text(facts['bytes'])}, in {into}"
    _print(facts, as_json, [f"passages   {facts['passages']:,}", files, *_counts(facts)])


def import_chunks(model: str, files: Sequence[Path], salt: str | None, as_json: bool, settings: Settings) -> bool:
    """Returns whether all files were used."""
    config, paths = _kept(settings.engine(model), None), files_of(files)
    with _opened(config) as opened, _bar("chunks", len(paths)) as advance:
        imported = opened.chunks.import_from(paths, salt=salt, progress=lambda each: advance())
    refused = Counter(each.refusal.value for each in imported if each.refusal is not None)
    kept = Counter(each.kept_as for each in imported if each.kept_as is not None)
    facts = {
        "chunks": sum(kept.values()),
        "tokens": sum(each.tokens for each in imported if each.kept_as is not None),
        "as_computed": kept["chunk"],
        "refused": dict(refused),
    }
    lines = [
        f"chunks     {facts['chunks']:,}, {facts['tokens']:,} tokens; {kept['chunk']:,} as if computed here",
        *(f"refused    {count:,}: {why}" for why, count in sorted(refused.items())),
    ]
    _print(facts, as_json, lines)
    return not refused


# -- inside ------------------------------------------------------------------------------------------------------------


def _kept(config: EngineConfig, instead: str | None) -> EngineConfig:
    """Raises ConfigError when what is computed would be gone when the command ends."""
    if config.tiers.cache_dir is None and config.tiers.remote_url is None:
        hint = "--cache-dir DIR, the one that `kvloom serve` is given" + (f"; or `{instead}`" if instead else "")
        raise ConfigError("nothing says where the KV of the passages is to be kept", hint=hint)
    return config


@contextmanager
def _opened(config: EngineConfig) -> Iterator[_Opened]:
    loaded = backend.load_engine(config)
    try:
        chunks = Chunks(loaded.engine, loaded.tokenizer, Driver(loaded.engine).compute)
        yield _Opened(chunks, loaded.tokenizer)
    finally:
        loaded.engine.close(_WRITTEN_S)


_WRITTEN_S = 600.0
"""For tiers to write what they still have to."""


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    """On standard error; yields what to call for each that is done."""
    with profile_bar() as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def _passages(opened: _Opened, found: Sequence[Document], passage_tokens: int) -> list[Document]:
    """Each with a name of its own."""

    def count(text: str) -> int:
        return len(opened.tokenizer.encode(text, add_special_tokens=False))

    passages = []
    for document in found:
        texts = split(document.text, passage_tokens, count)
        passages += [Document(Document.passage(document.name, n, len(texts)), text) for n, text in enumerate(texts)]
    return passages


def _texts(passages: Sequence[Document]) -> list[str]:
    return [passage.text for passage in passages]


def _named(config: EngineConfig, passages: Sequence[Document], owner: str) -> list[str]:
    """Keep the texts beside the pages, for requests to name; the ids. None without a directory."""
    if config.tiers.cache_dir is None:
        return []
    named = NamedDocuments.beside(config.tiers, _NAMED_BYTES)
    try:
        for passage in passages:
            named.keep(owner, passage.name, passage.text)
    finally:
        named.close()
    return [passage.name for passage in passages]


_NAMED_BYTES = 2**40
"""A server keeps as much of it as its setting says."""


def _added(opened: _Opened, added: Sequence[Added]) -> dict[str, Any]:
    """Everything that ``--json`` prints. ``written_pages``, ``missed_pages``: of tiers."""
    engine = opened.chunks.engine
    engine.tiers.flush(_WRITTEN_S)
    tiers = engine.tiers.stats().values()
    return {
        "passages": len(added),
        "there": sum(not each.computed for each in added),
        "tokens": sum(each.tokens for each in added),
        "computed_tokens": sum(each.computed for each in added),
        "written_pages": sum(tier.written_pages for tier in tiers),
        "missed_pages": sum(tier.missed_pages for tier in tiers),
    }


def _counts(facts: dict[str, Any]) -> list[str]:
    return [
        f"tokens     {facts['tokens']:,}, {facts['computed_tokens']:,} of which were computed",
        f"pages      {facts['written_pages']:,} written to tiers",
    ]


def _print(facts: dict[str, Any], as_json: bool, lines: Sequence[str]) -> None:
    print(json.dumps(facts, indent=2) if as_json else "\n".join(lines))
