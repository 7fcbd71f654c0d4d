"""Mistakes on the command line: one line that says what, one that says what next, an exit code, never a traceback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvloom.cli import backend, main
from kvloom.cli.hints import hint_for
from kvloom.errors import (
    ConfigError,
    InternalError,
    KvloomError,
    ModelFileError,
    PullError,
    UnsupportedModel,
)

from .conftest import Backend


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    """Exit code and standard error of a failing command; nothing goes to standard output."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert isinstance(end.value.code, int)
    return end.value.code, said.err.splitlines()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "mock", ""), "error: the prompt is empty"),
        (("run", "mock", " \n"), "error: the prompt is empty"),
        (("run", "mock", "\udcff\udcfe"), "error: the prompt is not valid UTF-8"),
        (("run", "mock", "x", "--max-tokens", "0"), "error: max_tokens must be a whole number at least 1, got 0"),
        (("run", "mock", "x", "--max-tokens", "-3"), "error: max_tokens must be a whole number at least 1, got -3"),
        (("run", "mock", "x", "--temperature", "nan"), "error: temperature must be a number from 0 to 100, got nan"),
        (("run", "mock", "x", "--temperature", "hot"), "error: Invalid value for '--temperature'"),
        (("run", "mock", "x", "--top-p", "2"), "error: top_p must be a number above 0 and at most 1, got 2.0"),
        (
            ("run", "mock", "word " * 600),
            "error: This model's maximum context length is 512 tokens. However",
        ),
        (("run", "mock", "x", "--threads", "0"), "error: threads must be at least 1, got 0"),
        (("run", "mock", "x", "--kv-bytes", "lots"), "error: cannot read `lots` as a size in bytes"),
        (("run", "mock", "x", "--kv-bytes", "0"), "error: a size must be positive, got `0`"),
        (("run", "mock", "x", "--kv-dtype", "int3"), "error: unknown kv_dtype `int3`"),
        (("run", "mock", "x", "--retention", "clock"), "error: unknown retention `clock`"),
        (("run", "mock", "x", "--activations", "int4"), "error: unknown activations `int4`"),
        (("run", "mock"), "error: Missing argument 'PROMPT'"),
        (("run", "absent", "x"), "error: no model `absent`: here are mock"),
        (("chat", "absent"), "error: no model `absent`"),
        (("serve", "absent"), "error: no model `absent`"),
        (("inspect", "absent"), "error: no model `absent`"),
        (("pull", "absent"), "error: no model `absent`"),
        (("inspect", "mock", "--kv-bytes", "1KiB"), "error: kv_bytes of 1024 is too small"),
        (("serve", "mock", "--port", "70000"), "error: port must be from 0 to 65535, got 70000"),
        (("serve", "mock", "--port", "http"), "error: Invalid value for '--port'"),
        (("serve", "mock", "--host", "no such host"), "error: cannot resolve host `no such host`"),
        (("serve", "mock", "--nonsense"), "error: No such option: --nonsense"),
        (("dance",), "error: No such command 'dance'"),
    ],
)
def test_callers_mistakes(
    fake: Backend, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    code, (first, *rest) = fails(capsys, *arguments)
    assert code == 2
    assert first.startswith(says)
    assert [line.startswith("hint: ") for line in rest] == [True]


def test_a_taken_port_is_found_before_the_model_is_loaded(fake: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, lines = fails(capsys, "serve", "mock", "--port", str(port))
    assert code == 2
    assert lines[0] == f"error: port {port} of 127.0.0.1 is in use"
    assert lines[1].startswith("hint: choose another with --port")
    assert fake.opened == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PullError("no network", hint="try again"), 1),
        (PullError("the disk is full: 5 bytes are missing"), 1),
        (ModelFileError("`x.gguf` is truncated"), 1),
        (UnsupportedModel("architecture `mamba` is not supported"), 2),
        (OSError(28, "No space left on device", "/x"), 1),
        (InternalError("pages do not add up"), 1),
        (RuntimeError("two\nlines"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_other_failures(
    fake: Backend,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
) -> None:
    def pull(name: str, progress: object) -> object:
        raise error

    monkeypatch.setattr(backend, "pull", pull)
    got, lines = fails(capsys, "pull", "mock")
    assert got == code
    assert [line.split(":")[0] for line in lines] == (["error", "hint"] if code != 130 else [])
    if isinstance(error, InternalError | RuntimeError):
        assert "KVLOOM_DEBUG=1" in lines[-1]


def test_debug_shows_where(fake: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLOOM_DEBUG", "1")
    with pytest.raises(ValueError, match="the prompt is empty"):
        main(["run", "mock", ""])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("port = 'http'", "error: setting `port` must be a whole number, got 'http'"),
        ("port = true", "error: setting `port` must be a whole number, got True"),
        ("share_prefixes = 1", "error: setting `share_prefixes` must be true or false, got 1"),
        ("share_prefixes = 'yes'", "error: setting `share_prefixes` must be true or false, got 'yes'"),
        ("admin_key = 'x'", "has an unknown setting `admin_key`"),
        ("speed = 3", "has an unknown setting `speed`"),
        ("api_key = 'x'", "has an unknown setting `api_key`"),
        ("port = ", "is not valid TOML"),
        ("step_tokens = 0", "error: step_tokens and max_seqs must be at least 1"),
    ],
)
def test_bad_settings_files(
    fake: Backend, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    code, lines = fails(capsys, "serve", "mock", "--config", str(path))
    assert code == 2
    assert says in lines[0]
    assert lines[1].startswith("hint: ")


def test_a_settings_file_that_is_not_there(fake: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = fails(capsys, "run", "mock", "x", "--config", "/nowhere/x.toml")
    assert (code, lines[0]) == (2, "error: cannot read `/nowhere/x.toml`: No such file or directory")
    assert lines[1:] == ["hint: run `kvloom run --help`"]


def kinds(of: type[KvloomError]) -> Iterator[type[KvloomError]]:
    yield of
    for each in of.__subclasses__():
        yield from kinds(each)


@pytest.mark.parametrize("kind", list(kinds(KvloomError)), ids=lambda kind: kind.__name__)
def test_every_typed_error_ends_with_a_hint(kind: type[KvloomError]) -> None:
    """Whoever raises it."""
    error = kind.__new__(kind)
    error.hint = None
    hint = hint_for(error, ["chunks", "add", "mock"])
    assert hint
    assert not hint.endswith(".")
    error.hint = "its own"
    assert hint_for(error, []) == "its own"


def test_the_hint_names_the_verb() -> None:
    assert hint_for(ConfigError("x"), ["chunks", "add", "mock"]) == "run `kvloom chunks add --help`"
    assert hint_for(ConfigError("x"), ["--port"]) == "run `kvloom --help`"
