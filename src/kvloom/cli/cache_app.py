"""The verbs of ``kvloom cache`` and their flags. Each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

cache_app = typer.Typer(
    name="cache",
    help="Look after a directory in which a server keeps KV on disk, while no server uses it.",
    no_args_is_help=True,
)

CacheDir = Annotated[Path, typer.Option("--cache-dir", help="The directory", show_default=False)]


@cache_app.command()
def ls(
    cache_dir: CacheDir,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
) -> None:
    """Say what is there: pages by layer group and size, and when they were used."""
    from kvloom.cli.cache_care import list_cache

    list_cache(cache_dir, json)


@cache_app.command()
def verify(cache_dir: CacheDir) -> None:
    """Read all pages, and remove those that are damaged. Exit code 1 if there were any."""
    from kvloom.cli.cache_care import verify_cache

    if not verify_cache(cache_dir):
        raise typer.Exit(1)


@cache_app.command()
def gc(
    cache_dir: CacheDir,
    max_bytes: Annotated[
        str, typer.Option("--max-bytes", help="What may stay, index included, such as 10GiB", show_default=False)
    ],
) -> None:
    """Remove the pages that were used least recently, until the rest fits."""
    from kvloom.cli.cache_care import shrink_cache

    shrink_cache(cache_dir, max_bytes)


@cache_app.command()
def clear(cache_dir: CacheDir, yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False) -> None:
    """Remove all pages."""
    from kvloom.cli.cache_care import clear_cache

    clear_cache(cache_dir, yes)
