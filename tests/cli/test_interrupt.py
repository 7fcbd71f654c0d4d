"""Ctrl-C stops an answer, and the conversation goes on."""

from __future__ import annotations

import os
import signal
import subprocess

from script import script

CHAT = """
import signal
from pathlib import Path
from kvloom.cli import backend, main
from tests.cli.conftest import Backend
from tests.server.echo_engine import EchoEngine

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
fake = Backend(Path("."))
fake.make_engine = lambda: EchoEngine(pace_s=0.02, max_model_len=8000)
backend.open_engine = fake.open_engine
try:
    main(["chat", "mock"])
finally:
    print("aborted", len(fake.engine.aborted), "live", len(fake.engine.live))
    print(fake.engine.tokenizer.decode(fake.engine.prompts[-1]))
"""


def test_ctrl_c_stops_the_answer_not_the_program() -> None:
    with subprocess.Popen(
        script(CHAT),
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as chat:
        assert chat.stdin is not None
        assert chat.stdout is not None
        for question in ("first", "second"):
            chat.stdin.write(f"{question}\n")
            chat.stdin.flush()
            assert chat.stdout.read(7) == " <user>"
            chat.send_signal(signal.SIGINT)
            while chat.stdout.read(1) != "\n":
                pass
        out, errors = chat.communicate(input="/exit\n", timeout=20)
    assert chat.returncode == 0, errors
    assert errors.count("(stopped)") == 2
    assert "Traceback" not in errors
    told = out.splitlines()
    assert told[0] == "aborted 2 live 0"
    # What was said before the stop is part of the conversation.
    assert told[1].startswith(" <user> first <assistant> <user>")
    assert told[1].endswith(" <user> second <assistant>")
