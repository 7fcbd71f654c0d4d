"""``kvloom plan trace``: the table, the JSON, the recommendation, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kvloom.cli.app import app
from kvloom.config import EngineConfig
from kvloom.engine.cost_profile import CostProfile, MeasuredOn, Quality, profile_path, write_profile
from kvloom.errors import ConfigError, DataFileError, ModelNotFound, TraceError
from kvloom.model.files.loading import weights_id_of
from kvloom.policy.cost import PrefillCost
from kvloom.policy.retention import POLICIES
from kvloom.policy.tier_cost import TierCost, TierCosts
from tests.cli.conftest import Backend, manifest


def plan(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["plan", "trace", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def mooncake(tmp_path: Path) -> Path:
    """Two conversations that take turns."""
    lines = [
        {"timestamp": 4000 * n, "input_length": 1024 * (n // 2 + 1), "output_length": 20, "hash_ids": ids}
        for n in range(8)
        for ids in [[100 * (n % 2) + m for m in range(2 * (n // 2 + 1))]]
    ]
    return written(tmp_path / "mooncake.jsonl", *lines)


def written(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    requests = [{"t": 9.0 * n, "in": 640 + 128 * n, "out": 20, "hash_runs": [[1, 10 + 2 * n]]} for n in range(4)]
    session = {"block_size": 64, "tool_tokens": 256, "system_tokens": 64, "requests": requests}
    path = tmp_path / "agents.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(session) + "\n").encode() * 3))
    return path


def test_the_table_and_one_sentence(mooncake: Path) -> None:
    shown = plan(mooncake, "--policies", "lru,asymcache", "--kv-bytes", "1GiB,400MiB").stdout
    for words in ("mooncake: 8 requests on llama-8b-h100", "TTFT", "TPOT", "p99", "400 MiB", "1 GiB"):
        assert words in shown
    assert shown.count("Recommended: --retention") == 1
    assert "A cache without limits would find 60.0% of the blocks" in shown
    assert "simulated as one" not in shown


def test_json_has_all_that_was_tried(mooncake: Path) -> None:
    found = json.loads(plan(mooncake, "--kv-bytes", "600MiB,2GiB", "--json").stdout)
    assert [(each["kv_bytes"], each["retention"]) for each in found["results"]] == [
        (size, name) for size in (600 * 2**20, 2 * 2**30) for name in POLICIES
    ]
    assert found["recommended"]["kv_bytes"] in (600 * 2**20, 2 * 2**30)
    assert (found["requests"], found["grain"], found["overloaded"]) == (8, 1, False)
    for each in found["results"]:
        assert {"ttft", "tpot_s", "recompute_s", "block_hits", "saved", "holes", "evictions"} <= set(each)
        assert each["block_hits"] <= found["endless_block_hits"]
        assert each["ttft"]["p99"] >= each["ttft"]["median"] > 0


def test_sizes_are_parts_of_the_machines_memory_unless_told(mooncake: Path) -> None:
    found = json.loads(plan(mooncake, "--policies", "lru", "--profile", "llama-8b-h20", "--json").stdout)
    quarter, half, whole = (each["kv_bytes"] for each in found["results"])
    assert quarter * 4 == pytest.approx(whole)
    assert half * 2 == pytest.approx(whole)
    assert found["machine"] == "llama-8b-h20"


def test_tiers_are_planned_too(mooncake: Path) -> None:
    some = (mooncake, "--policies", "lru", "--kv-bytes", "700MiB")
    found = json.loads(plan(*some, "--json").stdout)
    warm, disk = (found["tiers"][name] for name in ("warm", "disk"))
    assert (len(warm), len(disk)) == (5, 5)
    assert [each["warm_bytes"] for each in warm] == sorted(each["warm_bytes"] for each in warm)
    assert warm[0] == found["results"][0]
    assert warm[-1]["tier_tokens"]["warm"] > 0
    assert warm[-1]["ttft"]["mean"] < warm[0]["ttft"]["mean"]
    assert found["recommended"]["warm_bytes"] > 0
    shown = plan(*some).stdout
    assert f"--warm-bytes {found['recommended']['warm_bytes']} (" in shown
    assert "from warm RAM" in shown
    assert json.loads(plan(*some, "--json").stdout) == found


def test_tiers_of_asked_sizes_or_none(mooncake: Path) -> None:
    some = (mooncake, "--policies", "lru", "--kv-bytes", "700MiB", "--warm-bytes", "none")
    found = json.loads(plan(*some, "--disk-bytes", "1GiB,2GiB", "--json").stdout)
    assert [each["disk_bytes"] for each in found["tiers"]["disk"]] == [0, 2**30, 2**31]
    assert len(found["tiers"]["warm"]) == 1
    assert "--cache-dir DIR --disk-bytes" in plan(*some, "--disk-bytes", "2GiB").stdout
    without = plan(*some, "--disk-bytes", "none").stdout
    assert "from disk" not in without
    assert "--disk-bytes" not in without
    with pytest.raises(ConfigError, match="cannot hold a page"):
        plan(*some, "--disk-bytes", "1KiB")


def test_limit_speed_and_grain(mooncake: Path) -> None:
    some = ("--policies", "lru", "--kv-bytes", "2GiB", "--json")
    found = json.loads(plan(mooncake, *some, "--limit", "3", "--grain", "4").stdout)
    assert (found["requests"], found["grain"]) == (3, 4)
    slow, fast = (json.loads(plan(mooncake, *some, "--speed", speed).stdout) for speed in (1, 1000))
    assert "try a lower --speed" not in plan(mooncake, *some[:-1]).stdout
    assert fast["results"][0]["ttft"]["mean"] > slow["results"][0]["ttft"]["mean"]
    assert "4 tokens were simulated as one" in plan(mooncake, *some[:-1], "--grain", "4").stdout


def test_steps_are_as_large_as_told(mooncake: Path) -> None:
    some = ("--policies", "lru", "--kv-bytes", "2GiB", "--json")
    large, small = (json.loads(plan(mooncake, *some, "--step-tokens", rows).stdout) for rows in (4096, 64))
    assert small["results"][0]["ttft"]["mean"] > large["results"][0]["ttft"]["mean"]


def test_agents(agents: Path) -> None:
    some = (agents, "--format", "agent", "--policies", "lru", "--kv-bytes", "2GiB", "--json")
    found = json.loads(plan(*some, "--users", 2).stdout)
    assert (found["trace"], found["requests"]) == ("agents x2", 12)
    assert found["endless_block_hits"] > 0.5
    assert "/ 4" in json.loads(plan(*some, "--scale", 4).stdout)["trace"]


def profile_of(weights: str, home: Path) -> CostProfile:
    tier = TierCost(1e9, 1e-4)
    return CostProfile(
        measured_on=MeasuredOn.here(weights, EngineConfig(model="mock")),
        prefill=PrefillCost(1e-3, 1e-3, 1e-7),
        fit=Quality(1.0, 0.0),
        paper_fit=Quality(1.0, 0.0),
        tiers=TierCosts(tier, tier, tier),
        steps=9,
        longest=100,
    )


def test_a_model_that_is_here_by_what_was_measured(
    mooncake: Path, fake: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVLOOM_HOME", str(tmp_path / "home"))
    some = (mooncake, "--model", "mock", "--policies", "lru", "--json")
    with pytest.raises(ConfigError, match="nothing is known of what `mock` costs here") as raised:
        plan(*some)
    assert raised.value.hint == "kvloom profile cost mock"

    profile = profile_of(weights_id_of(manifest(tmp_path), "int8"), tmp_path)
    write_profile(profile, profile_path(profile.measured_on))
    found = json.loads(plan(*some).stdout)
    assert found["machine"] == "mock"
    assert found["results"][0]["ttft"]["mean"] > 0.5

    write_profile(profile, tmp_path / "costs.json")
    assert json.loads(plan(*some, "--profile", tmp_path / "costs.json").stdout)["results"] == found["results"]
    write_profile(profile_of("other", tmp_path), tmp_path / "costs.json")
    with pytest.raises(DataFileError, match="measured on another model than `mock`"):
        plan(*some, "--profile", tmp_path / "costs.json")
    with pytest.raises(ModelNotFound):
        plan(mooncake, "--model", "nobody")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--policies", "lru,best"), "no retention policy `best`"),
        (("--format", "csv"), "no trace format `csv`"),
        (("--profile", "abacus"), "no profile `abacus`"),
        (("--kv-bytes", "1GiB,much"), "cannot read `much` as a size"),
        (("--kv-bytes", "1KiB"), "too small: one token needs"),
        (("--kv-bytes", "200GiB"), "more than the 137438953472 that can be addressed"),
    ],
)
def test_bad_settings(mooncake: Path, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(mooncake, *arguments)


@pytest.mark.parametrize(
    ("format", "line", "said"),
    [
        ("mooncake", "{", "line 2: not valid JSON"),
        ("mooncake", '{"timestamp": 0}', "line 2: `input_length`"),
        ("agent", "{", "line 2: the line"),
        ("agent", '{"block_size": 64}', "line 2: tool_tokens"),
    ],
)
def test_bad_lines_are_named(mooncake: Path, agents: Path, tmp_path: Path, format: str, line: str, said: str) -> None:
    good = gzip.decompress(agents.read_bytes()) if format == "agent" else mooncake.read_bytes()
    (tmp_path / "bad.jsonl").write_bytes(good.splitlines()[0] + b"\n" + line.encode())
    with pytest.raises(TraceError, match=said):
        plan(tmp_path / "bad.jsonl", "--format", format)


def test_help_names_the_formats_and_the_machines() -> None:
    shown = " ".join(plan("--help").stdout.split())
    for words in (
        "--policies",
        "--kv-bytes",
        "--grain",
        "--users",
        "llama-8b-h20",
        "mooncake",
        "agent",
        "--step-tokens",
    ):
        assert words in shown


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        plan(tmp_path / "none")
