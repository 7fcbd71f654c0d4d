"""The process in which chat templates run: if a template loops or exhausts memory, only this process dies.

Started by path from ``template_process.py``, with only the standard library and Jinja, so that it starts quickly.

    to it     <Q length><JSON: template, messages, variables, seconds, max_chars>
    from it   R once it is ready; then per request: <one letter, see below><Q length><UTF-8 text>

It exits when its input ends; if its parent is gone, its own alarm ends it.
"""

from __future__ import annotations

import json
import signal
import struct
import sys
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, BinaryIO

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

READY = b"R"
TEXT, BROKEN, REFUSED, EXHAUSTED = b"T", b"B", b"F", b"M"
"""The prompt; the template is broken; it refuses these messages; it needs more memory than there is."""

LENGTH = struct.Struct(">Q")
CODING = ("utf-8", "surrogatepass")  # half a character may come in, and must come out: encoding refuses it by name

_MAX_WORDS = 300
_LARGE = 2**20
_ALARM_AFTER_S = 1.0


class _TooLong(Exception):
    """The template writes too much."""


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests until ``source`` ends."""
    sink.write(READY)
    sink.flush()
    while len(head := source.read(LENGTH.size)) == LENGTH.size:
        kind, text = _answer(source.read(LENGTH.unpack(head)[0]))
        data = text.encode(*CODING)
        del text
        sink.write(kind + LENGTH.pack(len(data)))
        sink.write(data)
        sink.flush()
        size = len(data)
        del data
        if size > _LARGE:
            _give_back_free_memory()


def _answer(data: bytes) -> tuple[bytes, str]:
    try:
        asked = json.loads(data.decode(*CODING))
        with _Alarm(asked["seconds"] + _ALARM_AFTER_S):
            return _run(asked)
    except MemoryError:
        return EXHAUSTED, ""


def _run(asked: dict[str, Any]) -> tuple[bytes, str]:
    try:
        compiled = _compile(asked["template"])
    except MemoryError:
        raise
    except jinja2.TemplateSyntaxError as error:
        return BROKEN, _cut(f"in line {error.lineno}: {error.message}")
    except Exception as error:  # Python's compiler has limits of its own
        return BROKEN, f"({_words(error)})"
    try:
        return TEXT, _render(compiled, asked)
    except MemoryError:
        raise
    except Exception as error:  # templates compute with what they are given: any exception is possible
        return REFUSED, _words(error)


def _render(compiled: jinja2.Template, asked: dict[str, Any]) -> str:
    left, parts = asked["max_chars"], []
    for part in compiled.generate(asked["variables"] | {"messages": asked["messages"]}):
        left -= len(part)
        if left < 0:
            raise _TooLong(f"the prompt would have more than {asked['max_chars']:,} characters")
        parts.append(part)
    return "".join(parts)


def _words(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "too deeply nested"
    return _cut(str(error) or type(error).__name__)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_WORDS else f"{text[:_MAX_WORDS]}..."


class _Alarm:
    """Ends this process after ``seconds``, even inside one long operation, where the system has such timers."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._set: Callable[..., Any] | None = getattr(signal, "setitimer", None)

    def __enter__(self) -> None:
        if self._set is not None:
            self._set(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        if self._set is not None:
            self._set(signal.ITIMER_REAL, 0)


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's part for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012 (the base class's own declaration)

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller: Any) -> Any:
        return caller()


@lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter would escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> str:
    raise jinja2.TemplateError(message)


def _give_back_free_memory() -> None:
    import ctypes  # rarely needed

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _limit_memory(num_bytes: int) -> None:
    """Where the system keeps such limits (Linux does, macOS does not); elsewhere only time and output are bounded."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):
        pass


if __name__ == "__main__":
    _limit_memory(int(sys.argv[1]))
    serve(sys.stdin.buffer, sys.stdout.buffer)
