"""``kvloom profile cost``: what it prints, and where it writes."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import tiny
from kvloom.cli import backend
from kvloom.cli.app import app
from kvloom.config import EngineConfig
from kvloom.engine.cost_profile import MeasuredOn, read_profile, stored_profile
from kvloom.eval.subject import Subject


@pytest.fixture(autouse=True)
def subject(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Subject:
    monkeypatch.setenv("KVLOOM_HOME", str(tmp_path / "home"))
    found = Subject("tiny", tiny.CharTokenizer(), tiny.make_engine())

    def open_subject(config: EngineConfig) -> Subject:
        assert config.model == "mock"
        return found

    monkeypatch.setattr(backend, "open_subject", open_subject)
    return found


def here(subject: Subject) -> MeasuredOn:
    return MeasuredOn.here(subject.engine.model.weights_id, subject.engine.config)


def profile(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["profile", "cost", "mock", *arguments], catch_exceptions=False)


@pytest.mark.parametrize("arguments", [(), ("--brief",)])
def test_the_fit_is_printed_and_kept(subject: Subject, arguments: tuple[str, ...]) -> None:
    result = profile(*arguments)
    assert result.exit_code == 0
    found = stored_profile(here(subject))
    assert found is not None
    assert found.prefill.token_s > 0
    shown = dict(re.findall(r"^(.{11})  (.+)$", result.stdout, re.MULTILINE))
    assert [name.rstrip(" ") for name in shown] == [
        *("prefill", "twice as", "held out", "AsymCache's", "measured"),
        *("copy in RAM", "disk, write", "disk, read"),
    ]
    assert f"R2 {found.fit.r2:.4f}" in shown["held out   "]
    assert f"R2 {found.paper_fit.r2:.4f}" in shown["AsymCache's"]
    assert f"{found.prefill.doubling_position:,.0f}" in shown["twice as   "]
    assert f"{found.steps} steps" in shown["measured   "]
    assert all("B/s after" in shown[name] for name in ("copy in RAM", "disk, write", "disk, read "))
    assert "the costs are in" in result.stderr


def test_programs_get_the_profile(subject: Subject) -> None:
    facts = json.loads(profile("--brief", "--json").stdout)
    found = stored_profile(here(subject))
    assert found is not None
    assert facts["prefill"] == asdict(found.prefill)
    assert facts["steps"] == found.steps
    assert Path(facts["file"]).is_file()


def test_it_is_written_where_asked_and_nowhere_else(subject: Subject, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    result = profile("--brief", "--output", str(path), "--disk", str(tmp_path / "disk"))
    assert str(path) in result.stderr
    assert read_profile(path, here(subject)).steps > 0
    assert stored_profile(here(subject)) is None
    assert list((tmp_path / "disk").iterdir()) == []
