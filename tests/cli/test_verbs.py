"""What the verbs print, and where."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from kvloom.cli.app import app
from kvloom.engine.defaults import SamplingDefaults
from tests.server.echo_engine import EchoEngine

from .conftest import Backend


def invoke(*arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin, catch_exceptions=False)


def test_run_streams_the_answer_to_stdout_only(fake: Backend) -> None:
    result = invoke("run", "mock", "one two", "--max-tokens", "4")
    assert result.exit_code == 0
    assert result.stdout == " <user> one two <assistant>\n"
    assert result.stderr.startswith("4 prompt tokens: 0 reused, 4 computed (4 never seen); first token in ")
    assert result.stderr.strip().endswith(", cut by the limit")
    assert "\x1b" not in result.stderr  # dim on a terminal alone
    assert fake.engine.params[-1].greedy
    assert not fake.engine.alive


def test_run_raw_skips_the_template(fake: Backend) -> None:
    assert invoke("run", "mock", "one two", "--raw", "--max-tokens", "3").stdout == " one two\n"


def test_run_reads_standard_input(fake: Backend) -> None:
    assert invoke("run", "mock", "-", "--raw", "--max-tokens", "2", stdin="word\n").stdout == " word\n"


def test_sampling_flags_arrive(fake: Backend) -> None:
    invoke("run", "mock", "x", "--temperature", "0.5", "--top-p", "0.25", "--top-k", "3", "--max-tokens", "2")
    params = fake.engine.params[-1]
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.5, 0.25, 3, 2)


def test_the_models_own_sampling_holds_where_no_flag_speaks(fake: Backend) -> None:
    own = SamplingDefaults({"temperature": 0.6, "top_k": 20, "max_tokens": 3})
    fake.make_engine = lambda: EchoEngine(sampling_defaults=own)
    invoke("run", "mock", "x", "--top-k", "5")
    params = fake.engine.params[-1]
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.6, 1.0, 5, 3)
    invoke("chat", "mock", stdin="x\n/exit\n")
    params = fake.engine.params[-1]
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.6, 0.95, 20, 3)


def test_chat_remembers_forgets_and_leaves(fake: Backend) -> None:
    lines = ["alpha", "", "beta", "/stats", "/what", "/reset", "gamma", "/exit", "never"]
    result = invoke("chat", "mock", "--max-tokens", "2", "--system", "be kind", stdin="\n".join(lines) + "\n")
    assert result.exit_code == 0
    said = [fake.engine.tokenizer.decode(prompt) for prompt in fake.engine.prompts]
    first = " <system> be kind <user> alpha"
    assert said == [
        f"{first} <assistant>",
        f"{first} <assistant> <system> be <user> beta <assistant>",
        " <system> be kind <user> gamma <assistant>",
    ]
    assert result.stdout == " <system> be\n" * 3
    # The first turn's prompt, and the token of its answer whose KV was computed.
    assert "11 prompt tokens: 7 reused (7 from RAM), 4 computed (4 " in result.stderr.splitlines()[2]
    assert re.search(r"KV \S+ KiB of 4 MiB used, \S+ KiB kept for reuse; 7 of 17 prompt tokens reused", result.stderr)
    assert result.stderr.count("/reset clears") == 2


def test_chat_tells_what_reuse_saved(fake: Backend) -> None:
    lines = invoke("chat", "mock", "--max-tokens", "2", stdin="word " * 200 + "\nmore\n").stderr.splitlines()
    told = [line for line in lines if "prompt tokens: " in line]
    assert len(told) == 2
    assert " saved" not in told[0]
    found = re.search(r"(\d+) reused \(\1 from RAM\), .*; first token in [\d.]+ s, about ([\d.]+) s saved; ", told[1])
    assert found is not None, told[1]
    assert int(found[1]) > 150
    assert float(found[2]) > 0


def test_quiet_says_nothing_about_the_cache(fake: Backend) -> None:
    assert invoke("run", "mock", "one two", "--max-tokens", "2", "--quiet").stderr == ""
    result = invoke("chat", "mock", "--max-tokens", "2", "--quiet", stdin="one\n")
    assert "prompt tokens" not in result.stderr


def test_run_prints_one_object_if_asked_to(fake: Backend) -> None:
    result = invoke("run", "mock", "one two", "--raw", "--max-tokens", "3", "--json")
    facts = json.loads(result.stdout)
    assert result.stderr == ""
    assert (facts["text"], facts["finish_reason"]) == (" one two", "length")
    assert (facts["prompt_tokens"], facts["answer_tokens"], facts["cached_tokens"]) == (3, 3, 0)
    assert facts["missed_by_reason"] == {"new": 3}
    assert facts["reused_by_tier"] == {}


def verbs(command: Any, *words: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield " ".join(words), command
        return
    for name, each in command.commands.items():
        yield from verbs(each, *words, name)


def test_every_verb_that_prints_a_result_can_print_json() -> None:
    without = {
        name for name, verb in verbs(get_command(app)) if "--json" not in {o for p in verb.params for o in p.opts}
    }
    assert without == {"pull", "chat", "serve", "profile lu"}  # a path, a talk, a server, a file


def test_completion_completes_verbs_and_flags() -> None:
    """What a shell asks, by the variables that its script sets."""
    for words, at, offered in (
        ("kvloom ser", 1, "serve"),
        ("kvloom chunks ex", 2, "export"),
        ("kvloom serve --kv-b", 2, "--kv-bytes"),
    ):
        asked = {"_KVLOOM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        command = [sys.executable, "-c", "from kvloom.cli import main; main()"]
        done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout.split() == [offered], done.stderr


def test_completion_can_be_shown(fake: Backend) -> None:
    command = [sys.executable, "-c", "from kvloom.cli import main; main(['--show-completion', 'bash'])"]
    disabled = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(command, env=disabled, capture_output=True, text=True, timeout=60, check=False)
    assert "_KVLOOM_COMPLETE=complete_bash" in done.stdout


def test_chat_ends_with_the_input(fake: Backend) -> None:
    assert invoke("chat", "mock", stdin="").exit_code == 0
    assert not fake.engine.alive


def test_chat_survives_a_prompt_too_long(fake: Backend) -> None:
    result = invoke("chat", "mock", "--max-tokens", "1", stdin="word " * 600 + "\nshort\n")
    assert (
        "error: This model's maximum context length is 512 tokens. However, the prompt is too long: it has 602"
        in result.stderr
    )
    assert "\nhint: shorten the prompt" in result.stderr
    assert fake.engine.tokenizer.decode(fake.engine.prompts[-1]) == " <user> short <assistant>"


def test_chat_survives_invalid_utf8(fake: Backend) -> None:
    result = invoke("chat", "mock", "--max-tokens", "1", stdin=b"\xff\xfe\nfine\n")
    assert result.exit_code == 0
    assert "not valid UTF-8" in result.stderr


def test_inspect_json(fake: Backend) -> None:
    result = invoke("inspect", "mock", "--json", "--kv-bytes", "64MiB")
    facts = json.loads(result.stdout)
    assert result.stderr == ""
    # 2 heads x (2 x 64 wide x 2 bytes, and a step of 4), for one full layer and two window layers
    assert [(group["name"], group["window"], group["token_bytes"]) for group in facts["layer_groups"]] == [
        ("full", None, 520),
        ("window512", 512, 1040),
    ]
    assert facts["kv_token_bytes"] == 1560
    assert facts["config"]["context_length"] == 8192
    assert facts["tensors"] == {"Q8_0": {"count": 1, "bytes": 68_000}, "F32": {"count": 2, "bytes": 512}}
    budget = facts["budget"]
    assert budget["bytes"] == 64 * 2**20
    assert budget["full_contexts"] == budget["bytes"] // facts["full_context_bytes"]
    assert 8192 < budget["longest_context"] < 64 * 2**20 / 520
    smaller = json.loads(invoke("inspect", "mock", "--json", "--kv-bytes", "32MiB").stdout)
    assert smaller["budget"]["longest_context"] < budget["longest_context"]
    wide = json.loads(invoke("inspect", "mock", "--json", "--kv-bytes", "64MiB", "--kv-dtype", "float32").stdout)
    assert wide["kv_token_bytes"] == 3072


def test_inspect_for_people(fake: Backend) -> None:
    lines = invoke("inspect", "mock", "--kv-bytes", "64MiB").stdout.splitlines()
    assert lines[0] == "model      mock (gemma3, 4 KiB)"
    assert any("2 layers keep the last 512 positions: 1,040 bytes per token" in line for line in lines)
    assert any(line.startswith("budget     64 MiB holds one context of ") for line in lines)


def test_pull_prints_where_the_model_is(fake: Backend) -> None:
    result = invoke("pull", "mock")
    assert result.stdout == f"{fake.directory}\n"
    assert "mock is ready (gemma3, 4 KiB)" in result.stderr


def test_version() -> None:
    assert invoke("--version").stdout.strip()[0].isdigit()


@pytest.mark.parametrize("verb", ["pull", "run", "chat", "serve", "inspect"])
def test_every_verb_has_help(verb: str) -> None:
    result = invoke(verb, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.stdout


def test_help_imports_nothing_heavy() -> None:
    probe = (
        "import sys\n"
        "from kvloom.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'fastapi', 'uvicorn', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "serve" in done.stdout
