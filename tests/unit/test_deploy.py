"""Files for deployment: they parse, and what they name exists, in the repository, in the command and in each other."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from kvloom.cli.app import app
from kvloom.cli.settings import Settings, read_settings
from kvloom.server.edge.access import is_loopback
from kvloom.server.missing import PATHS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TOML = DEPLOY / "kvloom.toml"


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return found


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "kvloom.service", encoding="utf-8")
    assert parser["Install"]["WantedBy"] == "multi-user.target"
    return parser["Service"]


def check_command(words: list[str]) -> None:
    """A verb of kvloom, with flags that it has."""
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    verb = verbs[words[0]]
    known = {flag for parameter in verb.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words[1:] if word.startswith("--")} <= known, words


def test_the_settings_are_settings() -> None:
    settings = Settings(read_settings(TOML))
    server = settings.server({})
    assert settings.engine("mock").tiers.cache_dir == "/var/lib/kvloom/kv"
    assert (server.port, server.open_metrics, server.log_format) == (8000, True, "json")


def test_the_containers_fit_each_other() -> None:
    services = compose()["services"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose()["volumes"], volume
        assert set(service.get("depends_on", ())) <= services.keys()
        if service["image"] == "kvloom":
            check_command(service["command"])
    server = Settings(read_settings(TOML)).server({})
    assert f"127.0.0.1:{server.port}:{server.port}" in services["kvloom"]["ports"]
    assert (ROOT / "deploy" / services["pull"]["build"]["context"]).resolve() == ROOT
    assert (ROOT / services["pull"]["build"]["dockerfile"]).is_file()
    assert int(services["kvloom"]["stop_grace_period"].removesuffix("s")) > server.drain_seconds
    mounts = [volume.split(":")[1] for volume in services["kvloom"]["volumes"]]
    assert services["kvloom"]["command"][-1] in mounts


def test_prometheus_scrapes_the_server_and_grafana_asks_prometheus() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert job["metrics_path"] in PATHS
    ((target,),) = [each["targets"] for each in job["static_configs"]]
    host, port = target.split(":")
    assert host in compose()["services"]
    assert int(port) == Settings(read_settings(TOML)).server({}).port
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert re.fullmatch(r"http://(\w+):9090", source["url"])[1] in compose()["services"]  # type: ignore[index]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "kvloom.yaml").read_text())["providers"]
    mounted = [volume.split(":")[1] for volume in compose()["services"]["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/kvloom.json" in mounted


def test_the_container_file_copies_what_is_there_and_installs_extras_that_exist() -> None:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    copies = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line]
    assert len(copies) == 2
    for source in (source for sources in copies for source in sources):
        assert (ROOT / source).exists(), source
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.search(r"'\.\[(.*?)\]'", text)[1].split(","):  # type: ignore[index]
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
    assert re.search(r"127\.0\.0\.1:8000(/\w+)", text)[1] in PATHS  # type: ignore[index]
    run = re.search(r"kvloom (serve .*)$", text, re.MULTILINE)
    assert run is not None
    check_command(shlex.split(run[1]))


def test_the_unit_runs_a_command_that_exists_and_leaves_it_time_to_drain() -> None:
    service = unit()
    program, *words = shlex.split(service["ExecStart"])
    assert program.endswith("/bin/kvloom")
    check_command(words)
    assert words[-1].endswith(f"/{TOML.name}")
    server = Settings(read_settings(TOML)).server({})
    assert int(service["TimeoutStopSec"]) > server.drain_seconds
    assert service["WorkingDirectory"] == f"/var/lib/{service['StateDirectory']}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_knows_every_word_of_the_unit(tmp_path: Path) -> None:
    assert complaints(tmp_path / "kvloom.service") == ""
    assert "Unknown key 'RestartSecs'" in complaints(tmp_path / "wrong.service", ("RestartSec=", "RestartSecs="))


def complaints(path: Path, change: tuple[str, str] = ("", "")) -> str:
    """Of systemd, about the unit with a program that is here, and with a change."""
    text = (DEPLOY / "kvloom.service").read_text(encoding="utf-8").replace(*change)
    path.write_text(text.replace("/opt/kvloom/bin/kvloom", "/bin/true"), encoding="utf-8")
    command = ["systemd-analyze", "verify", "--man=no", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stderr


def test_what_is_written_lies_where_it_may_be_written_and_stays() -> None:
    """In the state directory of the unit and in the volume of the container, which are home there."""
    cache_dir = Settings(read_settings(TOML)).engine("mock").tiers.cache_dir or ""
    home = f"/var/lib/{unit()['StateDirectory']}"
    assert cache_dir.startswith(f"{home}/")
    assert unit()["Environment"] == f"HOME={home}"
    services, container = compose()["services"], (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    for name in ("pull", "kvloom"):
        assert f"kvloom:{home}" in services[name]["volumes"], "one volume: what is pulled is there to be served"
    assert f"--home-dir {home} --create-home" in container
    assert f"VOLUME {home}\n" in container


def test_figures_are_for_prometheus_without_a_key_and_answers_are_not_for_anybody() -> None:
    server = Settings(read_settings(TOML)).server({})
    assert server.open_metrics, "prometheus.yml has no key"
    assert not is_loopback(server.host), "other containers have to reach it"
    assert services_environment("kvloom")["KVLOOM_API_KEY"].startswith("${KVLOOM_API_KEY:?"), (
        "it starts with a key alone"
    )
    assert unit()["EnvironmentFile"].startswith("-/etc/kvloom/")
    for name, service in compose()["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name


def services_environment(name: str) -> dict[str, str]:
    found: dict[str, str] = compose()["services"][name]["environment"]
    return found


def test_grafana_opens_with_the_dashboard_that_is_mounted() -> None:
    home = services_environment("grafana")["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    mounts = dict(volume.split(":")[:2] for volume in compose()["services"]["grafana"]["volumes"])
    (source,) = [source for source, target in mounts.items() if target == home]
    dashboard = json.loads((DEPLOY / source).read_text(encoding="utf-8"))
    (chosen,) = [each for each in dashboard["templating"]["list"] if each["type"] == "datasource"]
    assert chosen["query"] == "prometheus"


def test_a_flag_that_is_none_is_seen() -> None:
    try:
        check_command(["serve", "mock", "--no-such-flag"])
    except AssertionError:
        return
    raise AssertionError("it was not")
