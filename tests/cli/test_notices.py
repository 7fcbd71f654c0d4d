"""What is said of keys, of sharing and of contexts before a server serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvloom.cli import main
from kvloom.cli.notices import notices
from kvloom.cli.settings import Settings, read_settings
from kvloom.config import EventsConfig, ServerConfig
from kvloom.server.edge.keys import Keyring

from .conftest import Backend


def said(**settings: object) -> list[str]:
    config = ServerConfig(**settings)
    return list(notices(config, Keyring.of(config), EventsConfig()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("alice a-secret\nops o-secret admin\n")
    path.chmod(0o600)
    return path


def test_nothing_by_default() -> None:
    assert said() == []
    assert said(api_key="one") == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "kvloom.example"])
def test_an_open_door_is_a_warning(host: str) -> None:
    (line,) = said(host=host)
    assert line.startswith(f"warning: whoever reaches {host} is served")
    assert "(hint: set KVLOOM_API_KEY" in line
    assert said(host=host, api_key="one") == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_loopback_address_is_none(host: str) -> None:
    assert said(host=host) == []


def test_keys_are_named_and_sharing_is_told(path: Path) -> None:
    named = "keys       alice, ops (admin)"
    assert said(api_keys_file=str(path)) == [named, "sharing    within a key only"]
    together = "sharing    all clients share the KV of equal prefixes, in whole pages"
    assert said(api_keys_file=str(path), share_prefixes=True) == [named, together]
    assert said(share_prefixes=True) == [together]


def test_what_is_done_to_contexts_is_told(path: Path) -> None:
    assert said(compression="exact") == []
    assert said(compression="knorm:ratio=0.5") == ["contexts   knorm:ratio=0.5; unless a request says otherwise"]
    path.write_text("alice a-secret\nbob b-secret compression=exact\ncarol c-secret compression=keep_all\n")
    told = said(compression="knorm:ratio=0.5", api_keys_file=str(path))[-1]
    assert told == "contexts   knorm:ratio=0.5; bob: exact; carol: keep_all; unless a request says otherwise"
    assert said(api_keys_file=str(path))[-1] == "contexts   exact; carol: keep_all; unless a request says otherwise"


def test_words_for_contexts_come_from_flag_and_file(
    fake: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, seen = tmp_path / "settings.toml", []
    file.write_text('compression = "knorm:ratio=0.5"\n')
    monkeypatch.setattr("kvloom.cli.serving.serve_model", lambda _, settings, api_key: seen.append(_server(settings)))
    for flags in ([], ["--config", str(file)], ["--config", str(file), "--compression", "exact"]):
        with pytest.raises(SystemExit):
            main(["serve", "mock", *flags])
    assert [config.compression for config in seen] == ["exact", "knorm:ratio=0.5", "exact"]


@pytest.mark.parametrize(
    ("words", "says", "opened"),
    [
        ("best:ratio=0.5", "error: compression `best:ratio=0.5`: unknown method `best`", 0),
        ("knorm", "error: compression `knorm`: method `knorm` needs a ratio", 0),
        ("kvzap:ratio=0.5,predictor=none.npz", "error: `none.npz`: cannot be read: No such file or directory", 0),
        ("kvzap:ratio=0.5", "error: compression `kvzap:ratio=0.5`: no predictor of KVzip's scores ships", 1),
        ("random:ratio=0.5,allocator=lukv", "no profile ships for this model and `random`", 1),
    ],
)
def test_what_can_never_be_done_is_told_at_the_start(
    fake: Backend, capsys: pytest.CaptureFixture[str], words: str, says: str, opened: int
) -> None:
    """What is wrong with the words, before a model is loaded; what is wrong for this model, before anybody comes."""
    with pytest.raises(SystemExit) as end:
        main(["serve", "mock", "--port", "0", "--compression", words])
    errors = capsys.readouterr().err
    assert end.value.code == 2, errors
    assert says in errors
    assert "serving" not in errors
    assert len(fake.opened) == opened


def test_a_file_that_all_can_read_is_a_warning(path: Path) -> None:
    path.chmod(0o644)
    assert said(api_keys_file=str(path))[-1].endswith(f"(hint: chmod 600 {path})")


def test_bad_keys_are_told_before_a_model_is_loaded(
    fake: Backend, capsys: pytest.CaptureFixture[str], path: Path
) -> None:
    path.write_text("alice\n")
    with pytest.raises(SystemExit) as end:
        main(["serve", "mock", "--port", "0", "--api-keys-file", str(path)])
    assert end.value.code == 2
    assert "line 1: has 1 words" in capsys.readouterr().err
    assert fake.opened == []


def test_a_log_of_requests_is_announced_and_tried_before_a_model_is_loaded(
    fake: Backend, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert said(request_log="requests.jsonl")[0].endswith("for every answered request, in requests.jsonl")
    with pytest.raises(SystemExit) as end:
        main(["serve", "mock", "--port", "0", "--request-log", str(tmp_path / "nowhere" / "log")])
    assert end.value.code == 2
    assert "cannot log requests" in capsys.readouterr().err
    assert fake.opened == []


def test_switches_come_from_flag_and_file(fake: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, seen = tmp_path / "settings.toml", []
    file.write_text("share_prefixes = true\nopen-metrics = true\n")
    assert read_settings(file) == {"share_prefixes": True, "open_metrics": True}
    monkeypatch.setattr("kvloom.cli.serving.serve_model", lambda _, settings, api_key: seen.append(_server(settings)))
    for flags in ([], ["--no-share-prefixes"], ["--share-prefixes", "--no-open-metrics"]):
        with pytest.raises(SystemExit):
            main(["serve", "mock", "--config", str(file), *flags])
    assert [(config.share_prefixes, config.open_metrics) for config in seen] == [
        (True, True),
        (False, True),
        (True, False),
    ]


def _server(settings: Settings) -> ServerConfig:
    return settings.server({})


def test_secrets_come_from_the_environment() -> None:
    config = Settings({}).server({"KVLOOM_API_KEY": "one", "KVLOOM_ADMIN_KEY": "two"})
    assert (config.api_key, config.admin_key) == ("one", "two")
