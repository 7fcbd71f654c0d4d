"""The verbs of ``kvloom bench`` and their flags. Each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvloom.cli.settings import Settings, with_settings
from kvloom.errors import ConfigError

bench_app = typer.Typer(
    name="bench", help="Measure a model on this machine and compare it with the machine's limits.", no_args_is_help=True
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name, Hugging Face id, or path", show_default=False)]
Rounds = Annotated[int, typer.Option(min=1, help="Number of runs of each workload; the median is reported")]
New = Annotated[int, typer.Option("--new", min=2, help="Tokens per answer")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object")]


@bench_app.command()
@with_settings("engine", "cache", "scheduler", "tiers")
def latency(
    model: Model,
    settings: Settings,
    contexts: Annotated[str, typer.Option(help="Prompt lengths in tokens, comma-separated")] = "512,2048,4096",
    new: New = 64,
    rounds: Rounds = 3,
    json: Json = False,
) -> None:
    """A single request: prefill and decode speed by prompt length."""
    from kvloom.bench.workloads import Single
    from kvloom.cli.benching import bench

    bench(model, [Single(length, new) for length in _lengths(contexts)], rounds, settings, json)


@bench_app.command()
@with_settings("engine", "cache", "scheduler", "tiers")
def throughput(
    model: Model,
    settings: Settings,
    requests: Annotated[int, typer.Option(min=1, help="Number of concurrent requests")] = 16,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens per prompt")] = 512,
    new: New = 64,
    rounds: Rounds = 3,
    json: Json = False,
) -> None:
    """Concurrent requests with nothing in common."""
    from kvloom.bench.workloads import Together
    from kvloom.cli.benching import bench

    bench(model, [Together(requests, prompt, new)], rounds, settings, json)


@bench_app.command("shared-prefix")
@with_settings("engine", "cache", "scheduler", "tiers")
def shared_prefix(
    model: Model,
    settings: Settings,
    requests: Annotated[int, typer.Option(min=1, help="Number of requests that share the prefix")] = 8,
    prefix: Annotated[int, typer.Option(min=1, help="Tokens in the cached prefix")] = 2048,
    tail: Annotated[int, typer.Option(min=1, help="New tokens per prompt")] = 64,
    new: New = 32,
    rounds: Rounds = 3,
    json: Json = False,
) -> None:
    """Requests that share a cached prefix."""
    from kvloom.bench.workloads import SharedPrefix
    from kvloom.cli.benching import bench

    bench(model, [SharedPrefix(requests, prefix, tail, new)], rounds, settings, json)


@bench_app.command("multi-turn")
@with_settings("engine", "cache", "scheduler", "tiers")
def multi_turn(
    model: Model,
    settings: Settings,
    chats: Annotated[int, typer.Option(min=1, help="Number of interleaved conversations")] = 4,
    turns: Annotated[int, typer.Option(min=1, help="Turns per conversation")] = 8,
    question: Annotated[int, typer.Option(min=1, help="New tokens per turn")] = 256,
    new: New = 32,
    rounds: Rounds = 2,
    json: Json = False,
) -> None:
    """Growing conversations, one request at a time."""
    from kvloom.bench.workloads import MultiTurn
    from kvloom.cli.benching import bench

    bench(model, [MultiTurn(chats, turns, question, new)], rounds, settings, json)


@bench_app.command()
@with_settings("engine", "cache", "scheduler", "tiers")
def trace(
    model: Model,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Requests in the Mooncake format, JSON lines", show_default=False)
    ],
    settings: Settings,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Number of requests to replay, from the start of the file", show_default="all"),
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="Arrival rate as a multiple of the recorded one")] = 1.0,
    json: Json = False,
) -> None:
    """Replay recorded requests with synthetic texts: timestamp (ms), input_length, output_length, hash_ids."""
    from kvloom.cli.benching import bench_trace

    bench_trace(model, file, limit, speed, settings, json)


def _lengths(text: str) -> list[int]:
    """Raises ConfigError."""
    try:
        lengths = [int(part) for part in text.split(",")]
    except ValueError:
        lengths = []
    if not lengths or min(lengths) < 1:
        raise ConfigError(f"--contexts must be whole numbers of at least 1, got `{text}`", hint="such as 512,2048")
    return list(dict.fromkeys(lengths))
