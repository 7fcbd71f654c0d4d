"""Rows say which code of a policy made them, and on which document."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvloom.errors import DataFileError, RunMismatch
from kvloom.eval.answering import EngineAnswers
from kvloom.eval.identity import policy_digest
from kvloom.eval.policy import EXACT, Policy, parse_policy
from kvloom.eval.records import Row, RunStore, read_rows
from kvloom.eval.run import Work, run, settings_of
from kvloom.policy.compression import Compression
from kvloom.policy.compression.knorm import Knorm
from toy_tasks import ToyNeedle, tiny_subject

SCORE = "def score(k):\n    return {factor} * (k * k).sum(-1)\n"
POLICY = """
from dataclasses import dataclass, field
from pathlib import Path
from scores_of_test import score
from kvloom.policy.compression.needs import Cached

@dataclass(frozen=True)
class Short:
    power: int = 1
    name = "short"
    needs = frozenset({Cached.KEYS})

    def scores(self, context):
        return -score(context.k_SKD).T ** self.power
"""


def written(monkeypatch: pytest.MonkeyPatch, folder: Path, factor: int = 1, policy: str = POLICY) -> Policy:
    folder.mkdir(exist_ok=True)
    (folder / "scores_of_test.py").write_text(SCORE.format(factor=factor))
    (folder / "policy_of_test.py").write_text(policy)
    monkeypatch.delitem(sys.modules, "scores_of_test", raising=False)
    importlib.invalidate_caches()
    return parse_policy(f"{folder / 'policy_of_test.py'}:short:ratio=0.5")


def go(place: Path, policy: Policy, seed: int = 1, count: int = 2, task: ToyNeedle | None = None) -> list[Row]:
    subject, work = tiny_subject(), Work(tasks=(task or ToyNeedle(),), lengths=(60,), count=count, seed=seed)
    with RunStore(place, settings_of(subject, policy, seed=seed, in_flight=1)) as store:
        run(work, subject, EngineAnswers(subject, 1, policy), store)
    return read_rows(place)


def test_edited_code_does_not_go_on_with_old_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (row, _) = go(tmp_path / "run", written(monkeypatch, tmp_path / "code"))
    assert len(row.settings.code) == 16
    assert len(go(tmp_path / "run", written(monkeypatch, tmp_path / "code"), count=3)) == 3  # the same code goes on
    for edited in ({"policy": POLICY + "# edited"}, {"factor": 2}):  # the file itself, and what it imports
        with pytest.raises(RunMismatch, match=f"code '{row.settings.code}' -> "):
            go(tmp_path / "run", written(monkeypatch, tmp_path / "code", **edited))


def test_the_place_of_the_code_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {policy_digest(written(monkeypatch, tmp_path / name)) for name in "ab"}
    assert len(digests) == 1
    assert digests.isdisjoint({policy_digest(parse_policy("random:ratio=0.5")), policy_digest(EXACT)})
    assert policy_digest(EXACT) == ""


@dataclass(frozen=True)
class Part:
    table: Path


@dataclass(frozen=True)
class Composed(Knorm):
    part: Part | None = None


def composed(table: Path) -> Policy:
    return Policy("composed", {}, Compression(Composed(Part(table)), 0.5))


def test_a_profile_is_a_part_of_the_policy(tmp_path: Path) -> None:
    table = tmp_path / "profile.json"
    table.write_text("[1]")
    before = policy_digest(composed(table))
    assert policy_digest(composed(table)) == before
    table.write_text("[2]")
    assert policy_digest(composed(table)) != before
    with pytest.raises(DataFileError, match="cannot be read"):
        policy_digest(composed(tmp_path / "absent"))


def test_rows_name_their_document(tmp_path: Path) -> None:
    rows = go(tmp_path, EXACT, count=6, task=ToyNeedle(sharing=3, num_turns=2))
    by_index = {index: {row.document for row in rows if row.index == index} for index in range(6)}
    assert by_index[0] == by_index[1] == by_index[2] != by_index[3] == by_index[5]
    assert all(len(names) == 1 and names != {""} for names in by_index.values())
