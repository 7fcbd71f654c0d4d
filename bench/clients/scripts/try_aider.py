"""aider, the command: an edit of a file, asked for and answered; in its repository there is nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from trying import KEY, MODEL, V1, run


def _aider(*arguments: str) -> str:
    Path("a.py").write_text("def one():\n    return 1\n")
    environment = os.environ | {"OPENAI_API_BASE": V1, "OPENAI_API_KEY": KEY}
    quiet = ("--yes-always", "--no-git", "--no-check-update", "--no-show-model-warnings", "--no-analytics")
    shown = ("--no-pretty", "--no-suggest-shell-commands", "--no-detect-urls", "--no-show-release-notes")
    command = [sys.executable, "-m", "aider", "--model", f"openai/{MODEL}", *quiet, *shown, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-300:]
    assert "Tokens:" in said, said[-300:]
    assert "litellm." not in said, said[-300:]
    return next(line for line in said.splitlines() if line.startswith("Tokens:"))


def chat() -> str:
    return _aider("--no-stream", "--chat-mode", "ask", "--message", "What does one() return?", "a.py")


def stream() -> str:
    return _aider("--chat-mode", "ask", "--message", "What does one() return?", "a.py")


run(globals())
