"""The verbs and their flags. Each imports what it needs when it runs, so that ``--help`` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kvloom.cli.bench_app import bench_app
from kvloom.cli.cache_app import cache_app
from kvloom.cli.chunks_app import chunks_app
from kvloom.cli.eval_app import eval_app
from kvloom.cli.plan_app import plan_app
from kvloom.cli.profile_app import profile_app
from kvloom.cli.settings import Settings, with_settings

app = typer.Typer(
    name="kvloom",
    help="Run language models with KV-cache memory under your control.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

app.add_typer(eval_app)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name, Hugging Face id, or path", show_default=False)]
MaxTokens = Annotated[
    int | None,
    typer.Option(help="Maximum number of tokens to generate", show_default="what fits", rich_help_panel="Sampling"),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        help="Sampling temperature; 0 is greedy", show_default="the model's, else kvloom's", rich_help_panel="Sampling"
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        help="Sample from the most likely tokens up to this total probability",
        show_default="the model's, else kvloom's",
        rich_help_panel="Sampling",
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        help="Sample from this many of the most likely tokens; 0 disables the limit",
        show_default="the model's, else all",
        rich_help_panel="Sampling",
    ),
]

Quiet = Annotated[
    bool, typer.Option("--quiet", help="Say nothing about the cache after an answer", rich_help_panel="Output")
]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        print(version_of("kvloom"))
        raise typer.Exit


@app.command()
def pull(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Known name, Hugging Face id, or path", show_default=False)
    ],
) -> None:
    """Download a model, or register one that is on disk."""
    from kvloom.cli.pulling import pull_model

    pull_model(name)


@app.command()
@with_settings("engine", "cache", "scheduler", "tiers")
def run(
    model: Model,
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="The prompt; - reads standard input", show_default=False)
    ],
    settings: Settings,
    raw: Annotated[bool, typer.Option(help="Complete the prompt as is, without the chat template")] = False,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print the answer and its figures as one JSON object", rich_help_panel="Output"),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Answer one prompt."""
    from kvloom.cli.generating import Telling, run_once

    sampling = _sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k)
    run_once(model, prompt, raw, sampling, Telling(json, quiet), settings)


@app.command()
@with_settings("engine", "cache", "scheduler", "tiers")
def chat(
    model: Model,
    settings: Settings,
    system: Annotated[str | None, typer.Option(help="System message", show_default="none")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    quiet: Quiet = False,
) -> None:
    """Chat with a model; after each answer a line says what the cache did for it."""
    from kvloom.cli.generating import chat as converse

    sampling = _sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k)
    converse(model, system, quiet, sampling, settings)


@app.command()
@with_settings("engine", "cache", "scheduler", "tiers", "server", "events")
def serve(
    model: Model,
    settings: Settings,
    api_key: Annotated[
        str | None,
        typer.Option(
            help="Key that clients must send; others on this machine can read it here, unlike KVLOOM_API_KEY",
            show_default="KVLOOM_API_KEY",
            rich_help_panel="Server",
        ),
    ] = None,
) -> None:
    """Serve an OpenAI-compatible HTTP API. Clients must send KVLOOM_API_KEY or KVLOOM_ADMIN_KEY, if set.

    The flags of `vllm serve` are taken too, where they mean something here.
    """
    from kvloom.cli.serving import serve_model

    serve_model(model, settings, api_key)


@app.command()
@with_settings("cache")
def inspect(
    model: Model,
    settings: Settings,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
    compression: Annotated[
        str | None,
        typer.Option(
            help="Draw what this keeps of a context, by layer and KV head: METHOD:ratio=0.5,...",
            show_default=False,
            rich_help_panel="Context",
        ),
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            help="The context: a text file; - reads standard input", show_default=False, rich_help_panel="Context"
        ),
    ] = None,
    usage: Annotated[
        Path | None,
        typer.Option(
            help="Draw what the server kept, by an answer or its usage saved as JSON; - reads standard input",
            show_default=False,
            rich_help_panel="Context",
        ),
    ] = None,
) -> None:
    """Describe a model and the size of its KV, or what a running server keeps, or draw what a compressed context keeps.

    A server is named by its URL in place of MODEL; KVLOOM_ADMIN_KEY or KVLOOM_API_KEY is sent as the key, if set.
    """
    from kvloom.cli.inspect_server import inspect_server, is_url

    if is_url(model):
        inspect_server(model, json)
        return
    if compression is None and prompt_file is None and usage is None:
        from kvloom.cli.inspecting import inspect_model

        inspect_model(model, settings, json)
        return
    from kvloom.cli.inspect_context import Source, inspect_context

    inspect_context(model, Source(compression, prompt_file, usage), settings, json)


app.add_typer(bench_app)
app.add_typer(profile_app)
app.add_typer(plan_app)
app.add_typer(cache_app)
app.add_typer(chunks_app)


def _sampling(**flags: float | None) -> dict[str, Any]:
    """The flags that were given, checked before a model is loaded."""
    from kvloom.engine.params import SamplingParams, some_tokens

    asked: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    some_tokens(asked.get("max_tokens"))
    SamplingParams(**asked)
    return asked
