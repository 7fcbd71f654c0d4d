"""``python -m bench.claim``: its last line and its exit status."""

from __future__ import annotations

import json

import pytest

from bench import claim
from bench.claims import CLAIMS
from bench.harness import Outcome


def outcome(value: float) -> Outcome:
    return Outcome("demo", value, 2, "cells", value == 2, {"quick": True})


@pytest.mark.parametrize(("value", "status"), [(2, 0), (1, 1)])
def test_status_follows_the_outcome(
    value: int, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(claim, "measure_of", lambda name: lambda quick: outcome(value))
    assert claim.main(["storm", "--quick"]) == status
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == {"claim": "demo", "value": value, "goal": 2, "unit": "cells", "holds": value == 2, "quick": True}


@pytest.mark.parametrize("arguments", [["no-such-claim"], []])
def test_an_unknown_name_lists_the_known_ones(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert claim.main(arguments) == 2
    printed = capsys.readouterr()
    assert all(name in printed.err for name in CLAIMS)
    assert printed.out == ""
