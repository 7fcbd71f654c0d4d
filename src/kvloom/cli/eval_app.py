"""``kvloom eval``: its verbs and their flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvloom.cli.settings import Settings, with_settings

eval_app = typer.Typer(
    name="eval", help="Measure what a model and a cache policy are worth on long contexts.", no_args_is_help=True
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name, Hugging Face id, or path", show_default=False)]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of runs", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object")]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task", help="A task, a group or a public set; may be repeated", show_default="all that need no file"
    ),
]
Lengths = Annotated[list[int] | None, typer.Option("--length", help="Tokens per prompt; may be repeated")]
Samples = Annotated[int, typer.Option("--samples", help="Samples per task and length", min=1)]
Policy = Annotated[str, typer.Option("--policy", help="What is done to the context's KV, as name:param=value,...")]
Output = Annotated[Path | None, typer.Option("--output", help="Directory of the run; what is there is kept and used")]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", help="A file or directory, as NAME=PATH: text, squad, hotpot, open_questions, a public set"),
]
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--no-chat", help="Put prompts in the model's chat template", show_default="if the model has one"
    ),
]
Wording = Annotated[str, typer.Option("--wording", help="Words around RULER's tasks: own, or ruler, as long as theirs")]
Haystack = Annotated[
    str, typer.Option("--haystack", help="Filler: annals, or essays, as dense as English; or --data text=FILE")
]
InFlight = Annotated[int, typer.Option("--in-flight", help="Prompts at once", min=1)]


@eval_app.command()
@with_settings("engine", "cache", "scheduler")
def run(
    model: Model,
    settings: Settings,
    task: Tasks = None,
    length: Lengths = None,
    samples: Samples = 25,
    policy: Policy = "exact",
    query_aware: Annotated[bool, typer.Option("--query-aware", help="Let the policy see the question too")] = False,
    chat: Chat = None,
    wording: Wording = "own",
    haystack: Haystack = "annals",
    data: Data = None,
    in_flight: InFlight = 8,
    output: Output = None,
    estimate_only: Annotated[
        bool, typer.Option("--estimate-only", help="Say how long it would take, and stop")
    ] = False,
    json: Json = False,
) -> None:
    """Run benchmarks. A run that was interrupted goes on where it stopped."""
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
        typer.Argument(metavar="FILE...", help="Texts to compare on", show_default="made ones that tell things twice"),
    ] = None,
    policy: Policy = "exact",
    tokens: Annotated[int, typer.Option(help="Cut the texts into pieces of so many tokens", min=4)] = 1024,
    pieces: Annotated[int, typer.Option(help="Pieces to compare on at most", min=1)] = 16,
    context_share: Annotated[float, typer.Option(help="Share of a piece that is context")] = 0.5,
    json: Json = False,
) -> None:
    """Compare a policy with the exact cache on any text: KL over all tokens, and over those that need the context."""
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
    """Compare answers from cached KV with answers computed afresh, in every situation we know."""
    from kvloom.cli.eval_checks import check_trust

    check_trust(model, length, json, settings)


@eval_app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Directory of a run")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Directory of another run")],
    judge: Annotated[
        list[Path] | None,
        typer.Option("--judge", help="An exact run that says which tasks count", show_default="those beside A and B"),
    ] = None,
    common: Annotated[bool, typer.Option("--common", help="Leave out prompts that one run has not answered")] = False,
    json: Json = False,
) -> None:
    """Compare two runs prompt by prompt, and each with the exact one."""
    from kvloom.cli.eval_reports import compare_runs

    compare_runs(a, b, tuple(judge or ()), common, json)


@eval_app.command()
def report(
    runs: Runs,
    output: Annotated[Path, typer.Option("--output", help="Directory to write into")] = Path("report"),
    json: Json = False,
) -> None:
    """Write a report on one run or several: Markdown, JSON and charts."""
    from kvloom.cli.eval_reports import report_runs

    report_runs(runs, output, json)
