"""The claim about clients: what counts, what a script reports, and that the page is the filed result."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.claims.clients import outcome
from bench.clients import environments, page
from bench.clients.attempt import Tried
from bench.clients.environments import Environment, NotInstalled, environment_for
from bench.clients.table import CLIENTS, FEATURES, QUICK, SCRIPTS, Client
from bench.clients.trial import Cell, Target, try_client

TARGET = Target("http://127.0.0.1:9", "none", Path("nowhere"))
SCRIPT = """
import sys, time
sys.path.insert(0, {scripts!r})
from trying import run

def chat():
    return f"said of {{sys.argv[2]}}"

async def stream():
    raise ValueError("nothing came from http://127.0.0.1:9/v1\\nat all")

def _helper():
    raise AssertionError

{more}
run(globals())
"""
MORE = "def n():\n    {}\n\ndef stop():\n    return 1\n"


@pytest.fixture
def here(tmp_path: Path) -> Environment:
    """This environment, for a script that needs nothing else."""
    return Environment(Client("demo", str(tmp_path / "try_demo.py"), ("demo==1",), seconds=20), Path(sys.prefix))


def script(environment: Environment, more: str = "") -> None:
    environment.client.path.write_text(SCRIPT.format(scripts=str(SCRIPTS), more=more))


def tried(client: Client, failing: tuple[str, ...] = ()) -> Tried:
    return Tried(client, {name: Cell(name not in failing, "seen") for name in client.features})


def test_all_must_work_and_nothing_counts_where_nothing_ran() -> None:
    one, other = CLIENTS[:2]
    cells = len(one.features) + len(other.features)
    found = outcome([tried(one), tried(other)], quick=False)
    assert (found.holds, found.value, found.goal) == (True, cells, cells)
    found = outcome([tried(one, ("chat",)), tried(other)], quick=False)
    assert (found.holds, found.value) == (False, cells - 1)
    assert found.checks[0].remark == "chat"
    found = outcome([tried(one), Tried(other, not_run="no such package")], quick=False)
    assert (found.holds, found.value, found.goal) == (False, len(one.features), cells)
    assert found.details["clients"][other.name]["not_run"] == "no such package"
    assert not outcome([], quick=False).holds


def test_each_feature_is_reported_by_its_name(here: Environment) -> None:
    script(here)
    assert here.client.features == ("chat", "stream")
    assert try_client(here, TARGET) == {
        "chat": Cell(True, "said of none"),
        "stream": Cell(False, "ValueError: nothing came from http://127.0.0.1/v1 at all"),
    }


def test_what_a_script_does_not_get_to_does_not_work(here: Environment) -> None:
    script(here, MORE.format("sys.exit('it is over')"))
    found = try_client(here, TARGET)
    assert found["chat"].ok
    assert found["n"] == found["stop"] == Cell(False, "the script ended: it is over")


def test_a_script_that_hangs_is_ended(tmp_path: Path) -> None:
    hanging = Environment(Client("demo", str(tmp_path / "try_demo.py"), (), seconds=2), Path(sys.prefix))
    script(hanging, MORE.format("time.sleep(60)"))
    found = try_client(hanging, TARGET)
    assert found["chat"].ok
    assert found["stop"] == Cell(False, "the script took longer than 2 s")


def test_what_cannot_be_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLOOM_HOME", str(tmp_path))
    failing = [sys.executable, "-c", "import sys; sys.exit('ERROR: no such package\\n')"]
    monkeypatch.setattr(environments, "_installing", lambda client, place: [failing])
    with pytest.raises(NotInstalled, match=r"^ERROR: no such package$"):
        environment_for(CLIENTS[0])
    monkeypatch.setattr(environments, "_installing", lambda client, place: [["no-such-installer"]])
    with pytest.raises(NotInstalled, match="there is no `no-such-installer`"):
        environment_for(CLIENTS[0])


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLOOM_HOME", str(tmp_path))
    made: list[str] = []
    monkeypatch.setattr(environments, "_installing", lambda client, place: made.append(client.name) or [])
    one = Client("demo", "try_demo.py", ("demo==1",))
    assert environment_for(one).place == environment_for(one).place == tmp_path / "clients" / "demo"
    environment_for(Client("demo", "try_demo.py", ("demo==2",)))
    assert made == ["demo", "demo"]


def test_every_script_belongs_to_a_client_with_pinned_packages() -> None:
    assert {client.script for client in CLIENTS} == {path.name for path in SCRIPTS.glob("try_*")}
    assert len({client.name for client in CLIENTS}) == len(CLIENTS)
    assert set(QUICK) <= {client.name for client in CLIENTS}
    for client in CLIENTS:
        assert client.features, client.name
        pins = ("@",) if client.is_javascript else ("==",)
        assert all(pin in package[1:] for package in client.packages for pin in pins), client.name
    assert {name for client in CLIENTS for name in client.features} == set(FEATURES)


def test_scripts_in_javascript_run_all_that_they_define() -> None:
    for client in CLIENTS:
        if client.is_javascript:
            said = client.path.read_text(encoding="utf-8")
            lists = said[said.index("const features") :]
            assert all(name in lists for name in client.features), client.name


def test_the_page_is_the_filed_result() -> None:
    result = page.newest()
    assert result is not None
    filed = json.loads(result.read_text(encoding="utf-8"))
    assert page.PAGE.read_text(encoding="utf-8") == page.written(filed), "run `python -m bench.clients.page`"
    assert set(filed["outcome"]["details"]["clients"]) == {client.name for client in CLIENTS}


def test_the_page_tells_what_failed_and_what_did_not_run() -> None:
    one, other = CLIENTS[:2]
    made = outcome([tried(one, ("stream",)), Tried(other, not_run="no such package")], quick=False)
    result = {
        "outcome": {"value": made.value, "goal": made.goal, "details": made.details},
        "stamp": {"taken": "2026-11-29T07:00+00:00"},
    }
    said = page.written(result)
    assert f"**{made.value} of {made.goal}** work (2026-11-29)." in said
    assert "- openai, `stream`: seen" in said
    assert "- anthropic: no such package" in said
    assert "| not run |" in said
