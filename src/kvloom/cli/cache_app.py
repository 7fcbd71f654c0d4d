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
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object")]


@cache_app.command()
def ls(cache_dir: CacheDir, json: Json = False) -> None:
    """Say what is there: pages by layer group and size, and when they were used."""
    from kvloom.cli.cache_care import list_cache

    list_cache(cache_dir, json)


@cache_app.command()
def verify(cache_dir: CacheDir, json: Json = False) -> None:
    """Read all pages, and remove those that are damaged. Exit code 1 if there were any."""
    from kvloom.cli.cache_care import verify_cache

    if not verify_cache(cache_dir, json):
        raise typer.Exit(1)


@cache_app.command()
def gc(
    cache_dir: CacheDir,
    max_bytes: Annotated[
        str, typer.Option("--max-bytes", help="What may stay, index included, such as 10GiB", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Remove the pages that were used least recently, until the rest fits."""
    from kvloom.cli.cache_care import shrink_cache

    shrink_cache(cache_dir, max_bytes, json)


@cache_app.command()
def clear(
    cache_dir: CacheDir,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    json: Json = False,
) -> None:
    """Remove all pages."""
    from kvloom.cli.cache_care import clear_cache

    clear_cache(cache_dir, yes, json)


Url = Annotated[str, typer.Option(help="The server; KVLOOM_ADMIN_KEY or KVLOOM_API_KEY is sent as the key, if set")]
_HERE = "http://127.0.0.1:8000"


@cache_app.command()
def contexts(
    context: Annotated[
        str | None,
        typer.Argument(help="Id of a text, or of a reply: where its KV lies, by segments", show_default=False),
    ] = None,
    url: Url = _HERE,
    json: Json = False,
) -> None:
    """List the texts whose KV a running server has in RAM, or say where the KV of one context lies."""
    from kvloom.cli.cache_remote import list_contexts, show_context

    if context is None:
        list_contexts(url, json)
    else:
        show_context(url, context, json)


@cache_app.command()
def save(
    context: Annotated[str, typer.Argument(help="Id of a text, as `contexts` lists it", show_default=False)],
    name: Annotated[str, typer.Argument(help="Name for the session", show_default=False)],
    url: Url = _HERE,
    json: Json = False,
) -> None:
    """Save the KV of a text to a file in the server's --sessions-dir."""
    from kvloom.cli.cache_remote import save_context

    save_context(url, context, name, json)


@cache_app.command()
def restore(
    name: Annotated[str, typer.Argument(help="Name of a session that was saved", show_default=False)],
    url: Url = _HERE,
    json: Json = False,
) -> None:
    """Put a saved session back into the server's RAM. One of another model or format is refused."""
    from kvloom.cli.cache_remote import restore_session

    restore_session(url, name, json)
