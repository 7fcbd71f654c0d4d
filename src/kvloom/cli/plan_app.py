"""The verbs of ``kvloom plan`` and their flags. Each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvloom.cli.settings import Settings, with_settings

plan_app = typer.Typer(
    name="plan", help="Find out what would serve requests best, without running a model.", no_args_is_help=True
)


@plan_app.callback()
def plan() -> None:
    """Keeps a single verb a verb."""


@plan_app.command()
@with_settings("scheduler")
def trace(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Recorded requests, JSON lines", show_default=False)],
    settings: Settings,
    format: Annotated[
        str, typer.Option(help="mooncake: timestamp, input_length, output_length, hash_ids; agent: sessions of agents")
    ] = "mooncake",
    profile: Annotated[
        str | None,
        typer.Option(
            help="What serves: llama-8b-a100, llama-8b-h100 or llama-8b-h20; with --model, a file of "
            "`kvloom profile cost --output`",
            show_default="llama-8b-h100; with --model, what was measured here",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Plan for a model that is here", show_default="the profile's")
    ] = None,
    kv_bytes: Annotated[
        str | None,
        typer.Option(
            help="Sizes of KV memory to try, comma-separated, such as 16GiB,32GiB", show_default="1/4, 1/2, all"
        ),
    ] = None,
    policies: Annotated[
        str | None, typer.Option(help="Retention policies to try, comma-separated", show_default="all")
    ] = None,
    warm_bytes: Annotated[
        str | None,
        typer.Option(
            help="Sizes of a warm tier to try, comma-separated; none tries none",
            show_default="parts of what the trace stores",
        ),
    ] = None,
    disk_bytes: Annotated[
        str | None, typer.Option(help="The same of a disk tier", show_default="parts of what the trace stores")
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="Agents: how many play sessions at the same time")] = 16,
    scale: Annotated[float, typer.Option(min=0.001, help="Agents: what lengths are divided by")] = 1.0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of requests, from the start of the trace", show_default="all")
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="Arrival rate as a multiple of the recorded one")] = 1.0,
    grain: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens that are simulated as one: faster and coarser", show_default="by length"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
) -> None:
    """Which retention policy, how much memory for KV, and how large tiers would serve recorded requests best."""
    from kvloom.cli.planning import AskedTiers, Source, plan_trace

    source, tiers = Source(file, format, users, scale, limit, speed, grain), AskedTiers(warm_bytes, disk_bytes)
    plan_trace(source, profile, model, kv_bytes, policies, tiers, settings, json)
