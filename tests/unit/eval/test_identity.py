"""Rows say which code of a policy made them, and on which document; what draws at random draws from the content."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from kvloom.errors import DataFileError, RunMismatch
from kvloom.eval.answering import answerer_of
from kvloom.eval.identity import policy_digest
from kvloom.eval.policy import Damaged, Exact, LayerContext, Policy
from kvloom.eval.records import Row, RunStore, read_rows
from kvloom.eval.run import Work, run, settings_of
from toy_tasks import ToyNeedle, tiny_subject

SCORE = "def score(k):\n    return {factor} * (k * k).sum(-1)\n"
POLICY = """
from dataclasses import dataclass, field
from pathlib import Path
import numpy as np
from scores_of_test import score

@dataclass(frozen=True)
class Half:
    share: float = 0.5
    name = "half"
    params = {"share": 0.5}

    def keep(self, context):
        count = len(context.positions_S)
        order = np.argsort(score(context.k_SKD), axis=0)
        return [np.sort(order[: round(self.share * count), head]) for head in range(order.shape[1])]
"""


def load(monkeypatch: pytest.MonkeyPatch, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


def written(monkeypatch: pytest.MonkeyPatch, folder: Path, factor: int = 1, policy: str = POLICY) -> Policy:
    folder.mkdir(exist_ok=True)
    (folder / "scores_of_test.py").write_text(SCORE.format(factor=factor))
    (folder / "policy_of_test.py").write_text(policy)
    load(monkeypatch, folder / "scores_of_test.py")
    made: Policy = load(monkeypatch, folder / "policy_of_test.py").Half()
    return made


def go(place: Path, policy: Policy, seed: int = 1, count: int = 2, task: ToyNeedle | None = None) -> list[Row]:
    subject, work = tiny_subject(), Work(tasks=(task or ToyNeedle(),), lengths=(60,), count=count, seed=seed)
    with RunStore(place, settings_of(subject, policy, seed=seed, in_flight=1)) as store:
        run(work, subject, answerer_of(subject, policy, "query-agnostic", 1), store)
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
    assert digests.isdisjoint({policy_digest(Damaged()), policy_digest(Exact())})
    assert policy_digest(Exact()) == ""


@dataclass(frozen=True)
class Part:
    table: Path


@dataclass(frozen=True)
class Composed:
    part: Part
    name = "composed"
    params = {}  # noqa: RUF012


def test_a_profile_is_a_part_of_the_policy(tmp_path: Path) -> None:
    table = tmp_path / "profile.json"
    table.write_text("[1]")
    before = policy_digest(Composed(Part(table)))
    assert policy_digest(Composed(Part(table))) == before
    table.write_text("[2]")
    assert policy_digest(Composed(Part(table))) != before
    with pytest.raises(DataFileError, match="cannot be read"):
        policy_digest(Composed(Part(tmp_path / "absent")))


def test_rows_name_their_document(tmp_path: Path) -> None:
    rows = go(tmp_path, Exact(), count=6, task=ToyNeedle(sharing=3, num_turns=2))
    by_index = {index: {row.document for row in rows if row.index == index} for index in range(6)}
    assert by_index[0] == by_index[1] == by_index[2] != by_index[3] == by_index[5]
    assert all(len(names) == 1 and names != {""} for names in by_index.values())


def context(seed: int) -> LayerContext:
    k_SKD = np.random.default_rng(seed).normal(size=(64, 2, 4)).astype(np.float32)
    return LayerContext(0, np.arange(64), k_SKD, k_SKD)


def test_a_random_policy_draws_from_seed_and_content() -> None:
    """One pattern for all contexts of a length would be one observation, however many samples there are."""

    def kept(seed: int, content: int) -> list[list[int]]:
        return [list(head) for head in Damaged(0.5, seed).keep(context(content))]

    assert kept(0, 1) == kept(0, 1)
    assert len({str(kept(seed, content)) for seed in range(3) for content in range(3)}) == 9
    assert kept(0, 1)[0] != kept(0, 1)[1]
