"""``kvloom run`` and ``kvloom chat``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kvloom.cli import backend
from kvloom.cli.say import bytes_text, say
from kvloom.cli.settings import Settings
from kvloom.cli.talk import Spoken, speak
from kvloom.engine.params import SamplingParams
from kvloom.errors import RequestError
from kvloom.server.engine_protocol import ServedEngine

HELP = "/reset clears the conversation, /stats shows the cache, /exit quits; Ctrl-C stops an answer"

Turn = dict[str, str]

_RUN: dict[str, Any] = {"max_tokens": 256, "temperature": 0.0}
_CHAT: dict[str, Any] = {"max_tokens": None, "temperature": 0.7, "top_p": 0.95}
"""For models whose authors recommend nothing."""


def run_once(model: str, prompt: str, raw: bool, asked: Mapping[str, Any], settings: Settings) -> None:
    """Answer one prompt (``-`` reads standard input), then say where the time went."""
    text = _clean(sys.stdin.buffer.read() if prompt == "-" else prompt)
    engine = backend.open_engine(settings.engine(model))
    spoken = Spoken()
    try:
        params = engine.sampling_defaults.params(asked, otherwise=_RUN)
        asyncio.run(speak(engine, _prompt_ids(engine, text, raw), params, spoken))
    finally:
        engine.close()
        if spoken.texts:
            print(flush=True)
    say(spoken.line())


def chat(model: str, system: str | None, asked: Mapping[str, Any], settings: Settings) -> None:
    """Talk until ``/exit`` or the end of input."""
    engine = backend.open_engine(settings.engine(model))
    try:
        with asyncio.Runner() as runner:
            say(f"{engine.model_name}: {HELP}")
            params = engine.sampling_defaults.params(asked, otherwise=_CHAT)
            Conversation(engine, params, runner, system).talk()
    finally:
        engine.close()


@dataclass(slots=True)
class Conversation:
    """Turns so far, and how to take the next."""

    engine: ServedEngine
    params: SamplingParams
    runner: asyncio.Runner
    system: str | None = None
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
                say(f"error: the input is not valid UTF-8 at byte {error.start}")
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
        say(spoken.line())

    async def _answer(self, spoken: Spoken) -> None:
        system: list[Turn] = [{"role": "system", "content": self.system}] if self.system else []
        text = self.engine.tokenizer.chat_prompt([*system, *self.turns])
        limit = self.engine.max_model_len
        prompt = self.engine.tokenizer.encode(text, add_special_tokens=False, max_tokens=limit)
        await speak(self.engine, prompt, self.params, spoken)


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
        raise RequestError("the prompt is not valid UTF-8") from None
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
