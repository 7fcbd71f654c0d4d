"""Entry point: run a verb; whatever goes wrong becomes ``error:`` and ``hint:`` lines and an exit code.

Exit codes: 0 done, 1 failed, 2 the caller's mistake, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

CALLERS_MISTAKE, FAILED, INTERRUPTED = 2, 1, 130


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit. ``arguments``: None takes the process's own."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_guarded(given or ["--help"]))


def _guarded(arguments: list[str]) -> int:
    if os.environ.get("KVLOOM_DEBUG") == "1":
        return _dispatch(arguments)
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        return _report(error, arguments)


def _dispatch(arguments: list[str]) -> int:
    import typer.main

    from kvloom.cli.app import app

    if arguments[:1] == ["serve"]:
        from kvloom.cli.vllm_flags import in_our_words

        arguments = ["serve", *in_our_words(arguments[1:])]
    command = typer.main.get_command(app)
    code = command.main(arguments, prog_name="kvloom", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _report(error: Exception, arguments: list[str]) -> int:
    from typer import Abort, TyperException

    from kvloom.cli.hints import hint_for
    from kvloom.errors import InternalError, KvloomError

    if isinstance(error, Abort):
        return INTERRUPTED
    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        place = context.command_path if context is not None else "kvloom"
        return _say(error.format_message().rstrip("."), f"run `{place} --help`", error.exit_code)
    hint = hint_for(error, arguments)
    if isinstance(error, KvloomError) and not isinstance(error, InternalError):
        return _say(str(error), hint, _code(error))
    if isinstance(error, OSError):
        return _say(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""), hint, FAILED)
    return _say(f"{type(error).__name__}: {error}", hint, FAILED)


def _code(error: Exception) -> int:
    from kvloom.errors import (
        ConfigError,
        DataFileError,
        EvalError,
        ModelNotFound,
        RequestError,
        TraceError,
        UnsupportedModel,
    )

    mistakes = (ConfigError, DataFileError, EvalError, RequestError, TraceError, ModelNotFound, UnsupportedModel)
    return CALLERS_MISTAKE if isinstance(error, mistakes) else FAILED


def _say(message: str, hint: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    print(f"hint: {hint}", file=sys.stderr)
    return code
