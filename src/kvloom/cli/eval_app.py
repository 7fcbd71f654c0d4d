"""``kvloom eval``: its verbs and their flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvloom.cli.settings import Settings, with_settings

eval_app = typer.Typer(name="eval", help="Evaluate a model and a cache policy on long contexts.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name, Hugging Face id, or path", show_default=False)]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of runs", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object")]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task", help="A task, a group or a public set; may be repeated", show_default="all that require no file"
    ),
]
Lengths = Annotated[list[int] | None, typer.Option("--length", help="Tokens per prompt; may be repeated")]
Samples = Annotated[int, typer.Option("--samples", help="Samples per task and length", min=1)]
Policy = Annotated[str, typer.Option("--policy", help="Policy applied to the context's KV, as name:param=value,...")]
Output = Annotated[
    Path | None, typer.Option("--output", help="Directory of the run; existing answers are kept and reused")
]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", help="A file or directory, as NAME=PATH: text, squad, hotpot, open_questions, a public set"),
]
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--no-chat", help="Format prompts with the model's chat template", show_default="if the model has one"
    ),
]
Wording = Annotated[str, typer.Option("--wording", help="Wording of RULER's tasks: own, or ruler for RULER's lengths")]
Haystack = Annotated[
    str,
    typer.Option(
        "--haystack", help="Filler text: essays, as dense as English, or annals, half as dense; or use --data text=FILE"
    ),
]
InFlight = Annotated[int, typer.Option("--in-flight", help="Number of concurrent prompts", min=1)]


@eval_app.command()
@with_settings("engine", "cache", "scheduler")
def run(
    model: Model,
    settings: Settings,
    task: Tasks = None,
    length: Lengths = None,
    samples: Samples = 25,
    policy: Policy = "exact",
    query_aware: Annotated[bool, typer.Option("--query-aware", help="Let the policy see the question as well")] = False,
    chat: Chat = None,
    wording: Wording = "own",
    haystack: Haystack = "essays",
    data: Data = None,
    in_flight: InFlight = 8,
    output: Output = None,
    estimate_only: Annotated[
        bool, typer.Option("--estimate-only", help="Print the estimated running time and exit")
    ] = False,
    json: Json = False,
) -> None:
    """Run benchmarks. An interrupted run resumes where it stopped."""
    from kvloom.cli.eval_runs import RunRequest, run_benchmarks

    lengths = tuple(length or (1024, 2048))
    request = RunRequest(model, tuple(task or ()), lengths, samples, policy, query_aware, chat, wording, haystack)
    run_benchmarks(request, tuple(data or ()), in_flight, output, estimate_only, json, settings)


@eval_app.command()
@with_settings("engine", "cache", "scheduler")
def sweep(
    model: Model,
    settings: Settings,
    task: Tasks = None,
    length: Lengths = None,
    samples: Samples = 10,
    chat: Chat = None,
    data: Data = None,
    in_flight: InFlight = 8,
    output: Output = None,
    json: Json = False,
) -> None:
    """Find the context length at which the model itself stops working."""
    from kvloom.cli.eval_runs import RunRequest, run_sweep

    tasks = tuple(task or ("niah", "niah_single_1"))
    request = RunRequest(model, tasks, tuple(length or ()), samples, "exact", chat=chat)
    run_sweep(request, tuple(data or ()), in_flight, output, json, settings)


@eval_app.command()
@with_settings("engine", "cache", "scheduler")
def fidelity(
    model: Model,
    settings: Settings,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE...", help="Texts to compare on", show_default="generated texts that state facts twice"
        ),
    ] = None,
    policy: Policy = "exact",
    tokens: Annotated[int, typer.Option(help="Split the texts into pieces of this many tokens", min=4)] = 1024,
    pieces: Annotated[int, typer.Option(help="Maximum number of pieces", min=1)] = 16,
    context_share: Annotated[float, typer.Option(help="Fraction of each piece used as context")] = 0.5,
    json: Json = False,
) -> None:
    """Compare a policy with the exact cache on any text: KL over all tokens and over those that need the context."""
    from kvloom.cli.eval_checks import compare_on_texts

    compare_on_texts(model, files or [], policy, (tokens, pieces, context_share), json, settings)


@eval_app.command()
@with_settings("engine", "cache", "scheduler")
def trust(
    model: Model,
    settings: Settings,
    length: Annotated[int | None, typer.Option(help="Tokens per prompt", show_default="past the widest window")] = None,
    json: Json = False,
) -> None:
    """Compare answers from cached KV with freshly computed ones, in every known situation."""
    from kvloom.cli.eval_checks import check_trust

    check_trust(model, length, json, settings)


@eval_app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Directory of a run")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Directory of another run")],
    judge: Annotated[
        list[Path] | None,
        typer.Option(
            "--judge", help="An exact run that determines which tasks count", show_default="those next to A and B"
        ),
    ] = None,
    common: Annotated[bool, typer.Option("--common", help="Skip prompts that only one run has answered")] = False,
    json: Json = False,
) -> None:
    """Compare two runs prompt by prompt, and each with the exact run."""
    from kvloom.cli.eval_reports import compare_runs

    compare_runs(a, b, tuple(judge or ()), common, json)


@eval_app.command()
def report(
    runs: Runs,
    output: Annotated[Path, typer.Option("--output", help="Output directory")] = Path("report"),
    json: Json = False,
) -> None:
    """Write a report on one or more runs: Markdown, JSON and charts."""
    from kvloom.cli.eval_reports import report_runs

    report_runs(runs, output, json)
