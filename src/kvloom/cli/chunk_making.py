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
from kvloom.cli.documents import documents
from kvloom.cli.profile_progress import profile_bar
from kvloom.cli.say import bytes_text, say
from kvloom.cli.settings import Settings
from kvloom.config import EngineConfig, parse_bytes
from kvloom.engine.chunks import Added, Chunks, split
from kvloom.engine.driving import Driver
from kvloom.errors import ConfigError
from kvloom.model.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Opened:
    chunks: Chunks
    tokenizer: Tokenizer


def add_chunks(
    model: str, texts: Sequence[Path], passage_tokens: int, salt: str | None, as_json: bool, settings: Settings
) -> None:
    config, found = _kept(settings.engine(model), "kvloom chunks export"), documents(texts)
    with _opened(config) as opened:
        passages = _passages(opened, found, passage_tokens)
        with _bar("passages", len(passages)) as advance:
            added = opened.chunks.add(passages, salt=salt, progress=lambda each: advance())
        facts = _added(opened, added)
    _print(
        facts, as_json, [f"passages   {facts['passages']:,}, {facts['there']:,} of which were there", *_counts(facts)]
    )
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

            paths = opened.chunks.export_to(into, passages, salt=salt, max_bytes=room, progress=told)
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


def _passages(opened: _Opened, found: Sequence[str], passage_tokens: int) -> list[str]:
    def count(text: str) -> int:
        return len(opened.tokenizer.encode(text, add_special_tokens=False))

    return [passage for document in found for passage in split(document, passage_tokens, count)]


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
