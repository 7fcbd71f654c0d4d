"""The verbs of ``kvloom profile`` and their flags. Each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvloom.cli.settings import Settings, with_settings

profile_app = typer.Typer(
    name="profile",
    help="Learn what methods of compression have to know of a model, and what prefill costs here.",
    no_args_is_help=True,
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name, Hugging Face id, or path", show_default=False)]
Texts = Annotated[
    list[Path] | None,
    typer.Argument(metavar="TEXT...", help="Text files to learn from", show_default="a mixture that every machine has"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object")]
Output = Annotated[Path | None, typer.Option("--output", help="File to write", show_default="kvzap-MODEL.npz")]


@profile_app.command()
@with_settings("engine", "cache")
def kvzip(
    model: Model,
    settings: Settings,
    texts: Texts = None,
    length: Annotated[int, typer.Option("--length", min=64, help="Tokens per text")] = 1024,
    count: Annotated[int, typer.Option("--texts", min=8, help="Number of texts")] = 60,
    texts_seed: Annotated[int, typer.Option("--texts-seed", min=0, help="Seed of the mixture")] = 0,
    hidden: Annotated[int, typer.Option("--hidden", min=0, max=1024, help="Units of a hidden layer; 0: none")] = 32,
    output: Output = None,
    json: Json = False,
) -> None:
    """Learn to predict KVzip's scores from hidden states, for the method `kvzap`."""
    from kvloom.cli.profiling import Source, learn_kvzip

    learn_kvzip(model, Source(tuple(texts or ()), length, count, texts_seed), hidden, output, json, settings)


@profile_app.command()
@with_settings("engine", "cache")
def lu(
    model: Model,
    settings: Settings,
    method: Annotated[str, typer.Option("--method", help="Whose ranking it is, as name:param=value,...")] = "kvzap",
    length: Annotated[
        list[int] | None, typer.Option("--length", min=256, help="Tokens per context", show_default="1024 and 2048")
    ] = None,
    count: Annotated[int, typer.Option("--contexts", min=1, help="Number of contexts per length")] = 12,
    texts_seed: Annotated[int, typer.Option("--texts-seed", min=0, help="Seed of the texts")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", help="File to write", show_default="lu-MODEL-METHOD.json")
    ] = None,
) -> None:
    """Learn what each KV head loses by keeping less, for the allocator `lukv`."""
    from kvloom.cli.profiling import learn_lu

    learn_lu(model, method, tuple(length or (1024, 2048)), count, texts_seed, output, settings)


@profile_app.command()
@with_settings("engine", "cache")
def fusion(
    model: Model,
    settings: Settings,
    texts: Texts = None,
    selector: Annotated[
        list[str] | None,
        typer.Option("--selector", help="As name:param=value,...", show_default="all, and a3+epic"),
    ] = None,
    length: Annotated[int, typer.Option("--length", min=256, help="Tokens per context")] = 1024,
    document: Annotated[int, typer.Option("--document", min=16, help="Tokens per document")] = 256,
    count: Annotated[int, typer.Option("--contexts", min=1, help="Number of contexts")] = 12,
    texts_seed: Annotated[int, typer.Option("--texts-seed", min=0, help="Seed of the mixture")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", help="File to write", show_default="fusion-MODEL.json")
    ] = None,
    json: Json = False,
) -> None:
    """Learn how far fused answers are from a full prefill's, by selector and ratio, for `fusion=NAME:target=NATS`."""
    from kvloom.cli.fusion_profiling import Cut, learn_fusion

    cut = Cut(tuple(texts or ()), length, document, count, texts_seed)
    learn_fusion(model, tuple(selector or ()), cut, output, json, settings)


@profile_app.command()
@with_settings("engine", "cache")
def cost(
    model: Model,
    settings: Settings,
    brief: Annotated[bool, typer.Option("--brief", help="Seconds in place of minutes, and less exact")] = False,
    disk: Annotated[
        Path | None,
        typer.Option("--disk", help="Directory on the disk to measure", show_default="where kvloom keeps models"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="File to write", show_default="where the engine finds it"),
    ] = None,
    json: Json = False,
) -> None:
    """Measure what prefill costs on this machine by position, and how fast RAM and the disk are."""
    from kvloom.cli.cost_profiling import profile_cost

    profile_cost(model, brief, disk, output, json, settings)
