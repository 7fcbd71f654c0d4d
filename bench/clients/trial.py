"""One client against one server: its script runs in its environment, with nothing of ours in it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.clients.environments import Environment
from bench.remote import ROOT

_INHERITED = ("PATH", "LANG", "LC_ALL")
_QUIET = {
    "NO_PROXY": "*",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}
"""Nothing here may be asked of another machine, and there is none that answers."""

_MAX_DETAIL = 240


@dataclass(frozen=True, slots=True)
class Target:
    """What scripts are told. ``tokenizer``: a directory as transformers reads it, for those that count tokens."""

    url: str
    model: str
    tokenizer: Path


@dataclass(frozen=True, slots=True)
class Cell:
    """What came of one feature. ``detail``: what was seen, or what went wrong."""

    ok: bool
    detail: str


def try_client(environment: Environment, target: Target) -> dict[str, Cell]:
    """By feature. What the script does not get to, because it ends or takes too long, does not work."""
    client = environment.client
    with tempfile.TemporaryDirectory(prefix="client-") as home:
        command = [*environment.command, target.url, target.model, str(target.tokenizer)]
        with open(Path(home) / "stderr", "w+", encoding="utf-8") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=home,
                env={name: os.environ[name] for name in _INHERITED if name in os.environ} | _QUIET | {"HOME": home},
                start_new_session=True,
            )
            ended = _output(process, client.seconds)
            errors.seek(0)
            said = errors.read()
    hidden = (str(environment.place), str(ROOT), home, str(target.tokenizer), str(Path.home()))
    cells = {name: Cell(ok, clean(detail, hidden)) for name, ok, detail in _reported(ended.said)}
    why = f"the script took longer than {client.seconds:.0f} s" if ended.late else f"the script ended: {_last(said)}"
    missing = Cell(False, clean(why, hidden))
    return {feature: cells.get(feature, missing) for feature in client.features}


@dataclass(frozen=True, slots=True)
class _Ended:
    said: str
    late: bool


def _output(process: subprocess.Popen[str], seconds: float) -> _Ended:
    try:
        said, _ = process.communicate(timeout=seconds)
        return _Ended(said, False)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        return _Ended(said, True)


def _reported(said: str) -> list[tuple[str, bool, str]]:
    """Lines of the script's own form; others are what its client prints."""
    found = []
    for line in said.splitlines():
        if line.startswith('{"feature":'):
            cell = json.loads(line)
            found.append((cell["feature"], cell["ok"], cell["detail"]))
    return found


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "without a word"


def clean(detail: str, hidden: tuple[str, ...]) -> str:
    """One line without places of this machine.

    >>> clean("no /home/u/x\\nat 127.0.0.1:4321", ("/home/u",))
    'no ~/x at 127.0.0.1'
    """
    for place in hidden:
        detail = detail.replace(place, "~")
    detail = re.sub(r"(127\.0\.0\.1):\d+", r"\1", " ".join(detail.split()))
    return detail if len(detail) <= _MAX_DETAIL else detail[: _MAX_DETAIL - 3] + "..."
