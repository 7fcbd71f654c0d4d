"""The claims about tiers notice when they are false."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.claims import faults, restart_warm

PROMPTS = {256: [1] * 256, 1024: [2] * 1024}


class FakeProcess:
    """Loads in a millisecond what takes a hundred to compute, unless told otherwise."""

    warm_s, tokens, used = 1e-3, [1, 2, 3], 10

    def __init__(self, directory: Path, what: str) -> None:
        self.what = what

    def ask(self, prompt: list[int], cold: bool = False) -> dict[str, Any]:
        return {
            "tokens": self.tokens if not cold else [1, 2, 3],
            "ttft_s": 0.1 if cold else self.warm_s,
            "from_disk": 0 if cold else len(prompt),
            "faults": {},
            "used_bytes": self.used,
            "budget_bytes": 100,
            "pages": 1,
        }

    def tell(self, prompt: list[int], cold: bool = False) -> None: ...
    def expect(self, word: str) -> None: ...
    def end(self) -> None: ...
    def kill(self) -> None: ...


def held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **changed: Any) -> dict[str, bool]:
    monkeypatch.setattr(restart_warm, "Process", type("Changed", (FakeProcess,), changed))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    checks, _ = restart_warm.warm_and_cold(PROMPTS, tmp_path, 2)
    answers = {length: [1, 2, 3] for length in PROMPTS}
    checks += restart_warm.killed(PROMPTS, answers, tmp_path, 1)
    return {check.name: check.holds for check in checks}


def test_a_warm_restart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert all(held(monkeypatch, tmp_path).values())
    assert not held(monkeypatch, tmp_path, warm_s=0.03)["first token after 1024"]
    assert not held(monkeypatch, tmp_path, warm_s=0.12)["loading 256"]
    wrong = held(monkeypatch, tmp_path, tokens=[1, 2, 4])
    assert not wrong["right answers"]
    assert not wrong["right answers after kills"]
    assert not held(monkeypatch, tmp_path, used=101)["budgets and files in order"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({}, None),
        ({"tokens": [9]}, "fail 0.5: right answers"),
        ({"faults": {}}, "fail 0.5: counted, within budget"),
        ({"ttft_s": 0.2}, "fail 0.5: first token"),
    ],
)
def test_faults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: dict[str, Any], name: str | None) -> None:
    right = {"tokens": [1], "ttft_s": 0.1, "faults": {"failed": 3}, "used_bytes": 1, "budget_bytes": 2}

    class Nothing:
        def __enter__(self) -> None: ...
        def __exit__(self, *raised: object) -> None: ...

    monkeypatch.setattr(faults, "opened", lambda *args: Nothing())
    monkeypatch.setattr(faults, "answered", lambda llm, prompt, cold: right if cold else right | change)
    checks = faults.faulty([[1]], tmp_path, "fail", 0.5, 1)
    assert [check.name for check in checks if not check.holds] == ([] if name is None else [name])
