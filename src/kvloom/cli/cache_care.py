"""``kvloom cache``: what lies in a directory of pages, whether it is whole, and less of it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from kvloom.cli.profile_progress import profile_bar
from kvloom.cli.say import bytes_text, say, show
from kvloom.config import parse_bytes
from kvloom.engine.chunks.named import forget_documents
from kvloom.errors import ConfigError
from kvloom.memory.tier.base import TierFault
from kvloom.memory.tier.disk import DiskTier
from kvloom.memory.tier.disk_directory import is_cache_directory
from kvloom.memory.tier.page_header import HEADER_BYTES
from kvloom.memory.tier.writer import Writer

Facts = dict[str, Any]

_ENDLESS = sys.maxsize


def list_cache(directory: Path, as_json: bool) -> None:
    """Print the facts: a table for people, or one JSON object."""
    with _opened(directory) as tier:
        facts = _facts(directory, tier)
    show(facts, "\n".join(_table(facts)), as_json)


def verify_cache(directory: Path, as_json: bool) -> bool:
    """Returns whether everything was whole."""
    faults: list[str] = []
    with _opened(directory) as tier, profile_bar() as bar:
        damaged = tier.repairs.damaged
        rows = tier.rows()
        task = bar.add_task("pages", total=len(rows))
        for row in rows:
            try:
                tier.verify(row.place)
            except TierFault as fault:
                faults.append(f"{row.place.key.hex()}, layer group {row.place.group}: {fault}")
            bar.advance(task)
    for line in faults:
        say(line)
    damaged += len(faults)
    whole = len(rows) - len(faults)
    text = f"whole pages: {whole:,}; damaged, and removed: {damaged:,}"
    show({"directory": str(directory), "whole": whole, "damaged": damaged, "faults": faults}, text, as_json)
    return not damaged


def shrink_cache(directory: Path, max_bytes: str, as_json: bool) -> None:
    with _opened(directory, parse_bytes(max_bytes)) as tier:
        usage = tier.usage()
    text = f"pages removed: {usage.dropped_pages:,}; kept: {usage.pages:,}, {bytes_text(usage.used_bytes)} in all"
    facts = {"removed": usage.dropped_pages, "kept": usage.pages, "charged_bytes": usage.used_bytes}
    show({"directory": str(directory)} | facts, text, as_json)


def clear_cache(directory: Path, sure: bool, as_json: bool) -> None:
    with _opened(directory) as tier:
        pages = tier.usage().pages
        if not sure:
            typer.confirm(f"Remove all {pages:,} pages and all documents in {directory}?", abort=True, err=True)
        tier.clear()
        forget_documents(directory)
    show({"directory": str(directory), "removed": pages}, f"pages removed: {pages:,}", as_json)


@contextmanager
def _opened(directory: Path, budget_bytes: int = _ENDLESS) -> Iterator[DiskTier]:
    """What a server would find at its start, tidied up as it would. Raises ConfigError; nothing is made anew."""
    if not is_cache_directory(directory):
        raise ConfigError(
            f"`{directory}` is not a cache of kvloom", hint="--cache-dir names the directory that a server was given"
        )
    tier = DiskTier(directory, budget_bytes)
    try:
        repairs = tier.repairs
        if repairs.temporary:
            say(f"unfinished files removed: {repairs.temporary:,}")
        if repairs.damaged:
            say(f"damaged files removed: {repairs.damaged:,}")
        yield tier
    finally:
        tier.close()


def _facts(directory: Path, tier: DiskTier) -> Facts:
    """Everything that ``--json`` prints. Sizes in bytes; times in seconds since 1970, null if there is no page."""
    rows = tier.rows()
    kinds = Counter((row.place.group, row.bytes - HEADER_BYTES) for row in rows)
    groups = [
        {"group": group, "page_bytes": size, "pages": count, "bytes": size * count}
        for (group, size), count in sorted(kinds.items())
    ]
    writers = Counter(row.writer for row in rows)
    used = [row.used for row in rows]
    return {
        "directory": str(directory),
        "pages": len(rows),
        "page_bytes": sum(kind[1] * count for kind, count in kinds.items()),
        "charged_bytes": tier.usage().used_bytes,
        "groups": groups,
        "writers": [_writer(tier.writers.get(tag)) | {"pages": count} for tag, count in sorted(writers.items())],
        "oldest_use": min(used, default=None),
        "newest_use": max(used, default=None),
    }


def _table(facts: Facts) -> list[str]:
    """The facts for people."""
    lines = [
        f"directory  {facts['directory']}",
        f"pages      {facts['pages']:,}, {bytes_text(facts['page_bytes'])} of KV",
        *(
            f"  group {each['group']}  {each['pages']:,} of {bytes_text(each['page_bytes'])}"
            for each in facts["groups"]
        ),
        *(f"  written by {_by_whom(each)}: {each['pages']:,}" for each in facts["writers"]),
        f"charged    {bytes_text(facts['charged_bytes'])}, with whole blocks, folders and index",
    ]
    if facts["pages"]:
        lines.append(f"last used  from {_time(facts['oldest_use'])} to {_time(facts['newest_use'])}")
    return lines


def _writer(writer: Writer | None) -> Facts:
    """Nulls where nobody knows."""
    if writer is None:
        return {"model": None, "weights": None, "formats": None, "keys": None}
    return {"model": writer.model, "weights": writer.weights, "formats": writer.formats, "keys": writer.keys}


def _by_whom(facts: Facts) -> str:
    if facts["weights"] is None:
        return "who did not say"
    return f"{facts['model']} (weights {facts['weights'][:12]}) in {facts['formats']}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
