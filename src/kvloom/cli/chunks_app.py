"""The verbs of ``kvloom chunks`` and their flags. Each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvloom.cli.settings import Settings, with_settings

chunks_app = typer.Typer(
    name="chunks",
    help="Compute passages once, alone, so that prompts can have them anywhere; keep and exchange their KV.",
    no_args_is_help=True,
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name, Hugging Face id, or path", show_default=False)]
Texts = Annotated[
    list[Path],
    typer.Argument(metavar="FILE|DIR...", help="Texts; of JSON Lines the field `text`", show_default=False),
]
Files = Annotated[
    list[Path], typer.Argument(metavar="FILE|DIR...", help="kvchunk files, or directories of them", show_default=False)
]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Directory of kvchunk files", show_default=False)]
PassageTokens = Annotated[
    int,
    typer.Option(
        "--passage-tokens", min=1, help="Tokens of a passage at most; documents are split at paragraphs where possible"
    ),
]
Salt = Annotated[
    str | None, typer.Option("--salt", help="KV is only for requests of this salt", show_default="of no salt")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object")]

_PASSAGE_TOKENS = 256


@chunks_app.command()
@with_settings("engine", "cache", "scheduler", "tiers")
def add(
    model: Model,
    texts: Texts,
    settings: Settings,
    passage_tokens: PassageTokens = _PASSAGE_TOKENS,
    salt: Salt = None,
    owner: Annotated[
        str,
        typer.Option(
            "--owner", help="Name of the API key whose requests may name the passages", show_default="who has no key"
        ),
    ] = "",
    json: Json = False,
) -> None:
    """Compute the passages of texts, and keep their KV where --cache-dir or --remote-url says.

    Beside --cache-dir, requests may then name them: FILE, or FILE#1, FILE#2 ... where a text has several.
    """
    from kvloom.cli.chunk_making import add_chunks

    add_chunks(model, texts, passage_tokens, salt, owner, json, settings)


@chunks_app.command()
@with_settings("engine", "cache", "scheduler", "tiers")
def export(
    model: Model,
    texts: Texts,
    settings: Settings,
    into: Annotated[Path, typer.Option("--into", help="Directory of kvchunk files to write to", show_default=False)],
    passage_tokens: PassageTokens = _PASSAGE_TOKENS,
    salt: Salt = None,
    max_bytes: Annotated[
        str | None,
        typer.Option("--max-bytes", help="What may lie there; what was used least recently goes", show_default="all"),
    ] = None,
    json: Json = False,
) -> None:
    """Write the KV of the passages of texts as kvchunk files; what is nowhere yet is computed."""
    from kvloom.cli.chunk_making import export_chunks

    export_chunks(model, texts, passage_tokens, salt, into, max_bytes, json, settings)


@chunks_app.command("import")
@with_settings("engine", "cache", "scheduler", "tiers")
def import_(model: Model, files: Files, settings: Settings, salt: Salt = None, json: Json = False) -> None:
    """Put kvchunk files where --cache-dir or --remote-url says. Exit code 1 if some were refused."""
    from kvloom.cli.chunk_making import import_chunks

    if not import_chunks(model, files, salt, json, settings):
        raise typer.Exit(1)


@chunks_app.command()
def ls(directory: Directory, json: Json = False) -> None:
    """List kvchunk files, from the least recently used on."""
    from kvloom.cli.chunk_care import list_chunks

    list_chunks(directory, json)


@chunks_app.command()
def show(file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)], json: Json = False) -> None:
    """Say what a kvchunk file is of."""
    from kvloom.cli.chunk_care import show_chunk

    show_chunk(file, json)


@chunks_app.command()
def verify(files: Files, json: Json = False) -> None:
    """Read kvchunk files, all of them. Exit code 1 if some are not whole."""
    from kvloom.cli.chunk_care import verify_chunks

    if not verify_chunks(files, json):
        raise typer.Exit(1)


@chunks_app.command()
def gc(
    directory: Directory,
    max_bytes: Annotated[str, typer.Option("--max-bytes", help="What may stay, such as 10GiB", show_default=False)],
    json: Json = False,
) -> None:
    """Remove the files that were used least recently until the rest fits, and what was never finished."""
    from kvloom.cli.chunk_care import shrink_chunks

    shrink_chunks(directory, max_bytes, json)
