"""``kvloom inspect`` with a context: what a method of compression keeps of it, or what a saved answer says of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from kvloom.cli import backend
from kvloom.cli.retention import Retention
from kvloom.cli.settings import Settings
from kvloom.engine.build import Loaded
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.layout import KvLayout
from kvloom.engine.outputs import CompressedContext
from kvloom.engine.params import SamplingParams
from kvloom.errors import ConfigError, DataFileError, ParamsError, RequestError
from kvloom.model.decoder import kv_map_of
from kvloom.policy.compression import EXACT, Compression, parse_compression

STDIN = Path("-")


@dataclass(frozen=True, slots=True)
class Source:
    """Where compressed contexts come from: a method and a text, or a saved answer. ``-`` is standard input.

    Raises ConfigError when it is neither, or both.
    """

    compression: str | None
    prompt_file: Path | None
    usage: Path | None

    def __post_init__(self) -> None:
        if self.usage is not None and (self.compression or self.prompt_file):
            raise ConfigError("--usage is about an answer that is there", hint="leave out the other two, or --usage")
        if self.usage is None and (self.compression is None or self.prompt_file is None):
            raise ConfigError(
                "a context is a text, and what is done to it", hint="--compression METHOD:ratio=0.5 --prompt-file FILE"
            )


def inspect_context(model: str, source: Source, settings: Settings, as_json: bool) -> None:
    """Print a map for every context: for people, or one JSON object."""
    found = _served(model, source.usage, settings) if source.usage is not None else _made(model, source, settings)
    if as_json:
        print(json.dumps({"model": model, "contexts": [each.facts() for each in found]}, indent=2))
        return
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    for n, each in enumerate(found):
        if n:
            console.print()
        for line in each.lines():
            console.print(line)


# -- a method and a text -----------------------------------------------------------------------------------------------


def _made(model: str, source: Source, settings: Settings) -> list[Retention]:
    """What can be wrong without the model is found before it is loaded."""
    assert source.compression is not None
    assert source.prompt_file is not None
    compression, text = _compression(source.compression), _read(source.prompt_file)
    if not text.strip():
        raise DataFileError("has no text", path=source.prompt_file)
    loaded = backend.load_engine(settings.engine(model))
    return [Retention.of(_compressed(loaded, text, compression), loaded.engine.layout)]


def _compression(words: str) -> Compression:
    try:
        compression = parse_compression(words)
    except ParamsError as error:
        raise ConfigError(f"compression `{words}`: {error}", hint=error.hint) from None
    if compression is None:
        raise ConfigError(f"`{EXACT}` keeps everything: there is nothing to draw", hint="--compression knorm:ratio=0.5")
    return compression


def _compressed(loaded: Loaded, text: str, compression: Compression) -> CompressedContext:
    """All of the text but its last token is the context, or with a budget all of it that was there the last time."""
    engine, cache = loaded.engine, CacheParams(compression=compression)
    prompt = loaded.tokenizer.encode(text, None, max_tokens=engine.intake.longest(cache))
    engine.submit("inspect", prompt, SamplingParams(max_tokens=1), cache=cache)
    found: CompressedContext | None = None
    while engine.has_work:
        for update in engine.step():
            if update.error is not None:
                raise update.error
            found = update.metrics.compressed
    if found is None and compression.budget is not None:
        raise RequestError(
            f"a prompt of {len(prompt)} tokens stays exact: it has room in {compression.budget} bytes",
            hint="a smaller budget, or a longer text",
        )
    if found is None:
        raise RequestError(f"a prompt of {len(prompt)} tokens has no context", hint="the last token is none of it")
    return found


# -- a saved answer ----------------------------------------------------------------------------------------------------


def _served(model: str, file: Path, settings: Settings) -> list[Retention]:
    contexts, layout = _contexts(file), _layout(model, settings)
    return [Retention.of(each, layout) for each in contexts]


def _layout(model: str, settings: Settings) -> KvLayout:
    """Without loading its weights."""
    config = settings.engine(model)
    return KvLayout(kv_map_of(backend.resolve(model).spec), config.cache, config.scheduler.step_tokens)


def _contexts(file: Path) -> list[CompressedContext]:
    """Of an answer, or of its ``usage``. Raises DataFileError."""
    try:
        shown = json.loads(_read(file))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataFileError):
            raise
        raise DataFileError(f"is not JSON: {error}", path=file) from None
    try:
        found = [_context(each) for each in shown.get("usage", shown)["kvloom"]["compressed"]]
        if found:
            return found
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        pass
    hint = "an answer of `kvloom serve` that is not streamed, or its `usage`, to a request that had a compression"
    raise DataFileError("says nothing of compressed contexts", path=file, hint=hint)


def _context(shown: Mapping[str, Any]) -> CompressedContext:
    return CompressedContext(
        method=str(shown["method"]),
        params=dict(shown["params"]),
        ratio=None if shown["ratio"] is None else float(shown["ratio"]),
        tokens=int(shown["tokens"]),
        protected=int(shown["protected"]),
        kept={int(each["layer"]): tuple(map(int, each["entries"])) for each in shown["kept"]},
        bytes=int(shown["bytes"]),
        budget=shown.get("budget"),
        times=int(shown.get("times", 1)),
    )


def _read(file: Path) -> str:
    """Raises DataFileError."""
    try:
        raw = sys.stdin.buffer.read() if file == STDIN else file.read_bytes()
        return raw.decode()
    except OSError as error:
        raise DataFileError(f"cannot be read: {error.strerror or error}", path=file) from None
    except UnicodeDecodeError as error:
        raise DataFileError(f"is not UTF-8 text, at byte {error.start}", path=file) from None
