"""``python -m bench.claim``: its last line, its exit status, and the sitting that claims share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import claim
from bench.claims import CLAIMS, Compared
from bench.comparison import Comparison
from bench.harness import Outcome


def outcome(value: float) -> Outcome:
    return Outcome("demo", value, 2, "cells", value == 2, {"quick": True})


@pytest.mark.parametrize(("value", "status"), [(2, 0), (1, 1)])
def test_status_follows_the_outcome(
    value: int, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(claim, "claim_of", lambda name: lambda quick: outcome(value))
    assert claim.main(["storm", "--quick"]) == status
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == {"claim": "demo", "value": value, "goal": 2, "unit": "cells", "holds": value == 2, "quick": True}


@pytest.mark.parametrize("arguments", [["no-such-claim"], []])
def test_an_unknown_name_lists_the_known_ones(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert claim.main(arguments) == 2
    printed = capsys.readouterr()
    assert all(name in printed.err for name in CLAIMS)
    assert printed.out == ""


def test_an_unknown_peer_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert claim.main(["prefill", "--peers", "openvino,nobody"]) == 2
    assert "no peer `nobody`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prefill", "--sizes", "small,70b"], "no size `70b`"),
        (["multi-turn", "--sizes", "1b,8b"], "`multi-turn` measures no model of size 1b,8b"),
    ],
)
def test_sizes_that_do_not_exist_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert claim.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_claims_share_one_sitting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def compare(groups: frozenset[str], quick: bool, peers: list[str], sizes: list[str]) -> Comparison:
        asked.append((groups, quick, peers, sizes))
        return Comparison(2, quick, 0)

    claims = {"prefill": frozenset({"streams"}), "throughput": frozenset({"together"})}
    judged: list[Comparison] = []

    def judge(comparison: Comparison) -> Outcome:
        judged.append(comparison)
        return outcome(2)

    monkeypatch.setattr(claim, "claim_of", lambda name: Compared(claims[name], judge))
    monkeypatch.setattr(claim, "compare", compare)
    assert claim.main([*claims, "--peers", "openvino", "--out", str(tmp_path)]) == 0
    assert asked == [(frozenset({"streams", "together"}), False, ["openvino"], ["small"])]
    assert len(judged) == 2
    assert (tmp_path / "claim-demo.md").is_file()


def test_quick_runs_are_not_filed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "claim_of", lambda name: lambda quick: outcome(2))
    monkeypatch.setattr(claim, "write", lambda report, folder: pytest.fail("filed"))
    assert claim.main(["storm", "--quick"]) == 0
