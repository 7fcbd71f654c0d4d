"""``kvloom run`` and ``kvloom chat``."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kvloom.cli import backend
from kvloom.cli.say import bytes_text, say, say_aside
from kvloom.cli.settings import Settings
from kvloom.cli.talk import Spoken, speak
from kvloom.engine.params import SamplingParams
from kvloom.errors import RequestError
from kvloom.server.engine_protocol import ServedEngine

HELP = "/reset clears the conversation, /stats shows the cache, /exit quits; Ctrl-C stops an answer"

_UTF8 = "use a UTF-8 locale, or convert the text: iconv -f LATIN1 -t UTF-8"

Turn = dict[str, str]

_RUN: dict[str, Any] = {"max_tokens": 256, "temperature": 0.0}
_CHAT: dict[str, Any] = {"max_tokens": None, "temperature": 0.7, "top_p": 0.95}
"""For models whose authors recommend nothing."""


@dataclass(frozen=True, slots=True)
class Telling:
    """How an answer is told. ``as_json``: one object, when it is complete. ``quiet``: without a word on the cache."""

    as_json: bool = False
    quiet: bool = False


def run_once(
    model: str, prompt: str, raw: bool, asked: Mapping[str, Any], telling: Telling, settings: Settings
) -> None:
    """Answer one prompt (``-`` reads standard input), then say what the cache did and where the time went."""
    text = _clean(sys.stdin.buffer.read() if prompt == "-" else prompt)
    engine = backend.open_engine(settings.engine(model))
    spoken = Spoken()
    try:
        params = engine.sampling_defaults.params(asked, otherwise=_RUN)
        asyncio.run(speak(engine, _prompt_ids(engine, text, raw), params, spoken, _keep if telling.as_json else _show))
        cost = engine.stats().prefill_cost
    finally:
        engine.close()
        if spoken.texts and not telling.as_json:
            print(flush=True)
    if telling.as_json:
        print(json.dumps(spoken.facts(cost), indent=2))
    elif not telling.quiet:
        say_aside(spoken.line(cost))


def chat(model: str, system: str | None, quiet: bool, asked: Mapping[str, Any], settings: Settings) -> None:
    """Talk until ``/exit`` or the end of input. ``quiet``: without a line on the cache after each answer."""
    engine = backend.open_engine(settings.engine(model))
    try:
        with asyncio.Runner() as runner:
            say(f"{engine.model_name}: {HELP}")
            params = engine.sampling_defaults.params(asked, otherwise=_CHAT)
            Conversation(engine, params, runner, system, quiet).talk()
    finally:
        engine.close()


@dataclass(slots=True)
class Conversation:
    """Turns so far, and how to take the next."""

    engine: ServedEngine
    params: SamplingParams
    runner: asyncio.Runner
    system: str | None = None
    quiet: bool = False
    turns: list[Turn] = field(default_factory=list)

    def talk(self) -> None:
        while True:
            try:
                line = _ask()
            except KeyboardInterrupt:
                say("\n(/exit or Ctrl-D quits)")
                continue
            except EOFError:
                return
            except UnicodeDecodeError as error:
                say(f"error: the input is not valid UTF-8 at byte {error.start}\nhint: {_UTF8}")
                continue
            match line.strip():
                case "":
                    continue
                case "/exit":
                    return
                case "/reset":
                    self.turns.clear()
                    say("(conversation cleared)")
                case "/stats":
                    say(_stats(self.engine))
                case command if command.startswith("/"):
                    say(HELP)
                case question:
                    self._turn(question)

    def _turn(self, question: str) -> None:
        spoken = Spoken()
        self.turns.append({"role": "user", "content": question})
        try:
            self.runner.run(self._answer(spoken))
        except KeyboardInterrupt:
            print(flush=True)
            say("(stopped)")
        except RequestError as error:
            self.turns.pop()
            say(f"error: {error}\nhint: {error.hint or '/reset starts over'}")
            return
        else:
            print(flush=True)
        # A stopped answer is kept as far as it was printed: the model should know what the user has read.
        self.turns.append({"role": "assistant", "content": spoken.text})
        if not self.quiet:
            say_aside(spoken.line(self.engine.stats().prefill_cost))

    async def _answer(self, spoken: Spoken) -> None:
        system: list[Turn] = [{"role": "system", "content": self.system}] if self.system else []
        text = self.engine.tokenizer.chat_prompt([*system, *self.turns])
        limit = self.engine.max_model_len
        prompt = self.engine.tokenizer.encode(text, add_special_tokens=False, max_tokens=limit)
        await speak(self.engine, prompt, self.params, spoken, _show)


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _keep(text: str) -> None:
    """It is told when all of it is there."""


def _ask() -> str:
    if sys.stdin.isatty() and sys.stdout.isatty():
        import readline  # noqa: F401  (line editing and history for input())

        return input("> ")
    sys.stderr.write("> ")
    sys.stderr.flush()
    return input()


def _prompt_ids(engine: ServedEngine, text: str, raw: bool) -> list[int]:
    tokenizer, limit = engine.tokenizer, engine.max_model_len
    if raw:
        return tokenizer.encode(text, add_special_tokens=None, max_tokens=limit)
    prompt = tokenizer.chat_prompt([{"role": "user", "content": text}])
    return tokenizer.encode(prompt, add_special_tokens=False, max_tokens=limit)


def _clean(text: str | bytes) -> str:
    """Refuse an empty prompt, and bytes that are no UTF-8 (an argument brings those as lone surrogates)."""
    try:
        clean = text.decode() if isinstance(text, bytes) else text.encode().decode()
    except UnicodeError:
        raise RequestError("the prompt is not valid UTF-8", hint=_UTF8) from None
    if not clean.strip():
        raise RequestError("the prompt is empty", hint="give some text, or `-` to read standard input")
    return clean


def _stats(engine: ServedEngine) -> str:
    cache = engine.stats().cache
    asked = cache.hit_tokens + cache.miss_tokens
    return (
        f"KV {bytes_text(cache.used_bytes)} of {bytes_text(cache.budget_bytes)} used, "
        f"{bytes_text(cache.cached_bytes)} kept for reuse; {cache.hit_tokens} of {asked} prompt tokens reused"
    )
