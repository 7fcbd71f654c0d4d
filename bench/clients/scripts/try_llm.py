"""``llm``, the command: a model of its ``extra-openai-models.yaml``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from trying import CITY, KEY, MODEL, QUESTION, TOO_LONG, V1, is_city, raises, run, words

HOME = Path("llm-home").absolute()
HOME.mkdir()
(HOME / "extra-openai-models.yaml").write_text(
    json.dumps(
        [
            {
                "model_id": "here",
                "model_name": MODEL,
                "api_base": V1,
                "api_key_name": "here",
                "supports_schema": True,
                "supports_tools": True,
            },
            {"model_id": "text", "model_name": MODEL, "api_base": V1, "api_key_name": "here", "completion": True},
        ]
    )
)
(HOME / "keys.json").write_text(json.dumps({"here": KEY}))


def _llm(*arguments: str) -> str:
    environment = os.environ | {"LLM_USER_PATH": str(HOME)}
    command = [sys.executable, "-m", "llm", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return done.stdout


SHORT = ("-m", "here", "-o", "max_tokens", "64", "-o", "temperature", "0")


def chat() -> str:
    return words(_llm(*SHORT, "--no-stream", "-s", "Be brief.", QUESTION))


def stream() -> str:
    return words(_llm(*SHORT, QUESTION))


def turns() -> str:
    _llm(*SHORT, QUESTION)
    return words(_llm(*SHORT, "-c", "And of Italy?"))


def schema() -> str:
    return is_city(json.loads(_llm(*SHORT, "--no-stream", "--schema", json.dumps(CITY), QUESTION)))


def agent() -> str:
    """Tools are offered, and the loop ends; whether a small model calls one is up to it."""
    return words(_llm(*SHORT, "-T", "llm_version", "What version of llm is this?"))


def completions() -> str:
    return words(_llm("-m", "text", "-o", "max_tokens", "16", "Paris is"))


def overflow() -> str:
    Path("long.txt").write_text(TOO_LONG)
    return raises(RuntimeError, lambda: _llm(*SHORT, "-f", "long.txt", QUESTION), "maximum context length is")


run(globals())
