"""Policies of the judge are methods of the engine by their words, and those of a user's own file."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvloom.errors import DataFileError, EvalError
from kvloom.eval.policy import EXACT, parse_policy
from kvloom.policy.compression import METHODS, compression_of

OWN = """
from dataclasses import dataclass
import numpy as np
from kvloom.policy.compression.needs import Cached

@dataclass(frozen=True)
class Every:
    name = "every"
    needs = frozenset()
    step: int = 2

    def scores(self, context):
        return np.broadcast_to((context.positions_S % self.step == 0).astype(np.float32), context.shape)
"""


def test_policies_are_read_from_text() -> None:
    assert parse_policy("exact") == EXACT
    assert parse_policy("random:ratio=0.25,seed=3").compression == compression_of("random", 0.25, seed=3)
    assert parse_policy("sink_recent:ratio=0.5").params == {"ratio": 0.5, "sinks": 4}
    assert parse_policy("keep_all").params == {}


@pytest.mark.parametrize("name", METHODS)
def test_a_label_is_what_can_be_asked_for(name: str) -> None:
    asked = name if METHODS[name].ratio is not None else f"{name}:ratio=0.5"
    policy = parse_policy(asked)
    params = ",".join(f"{key}={value}" for key, value in policy.params.items())
    assert parse_policy(f"{policy.name}:{params}") == policy


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("nothing", "policy `nothing`: unknown method `nothing`"),
        ("random:keep=1", "no parameter `keep`"),
        ("random:ratio=much", "cannot read `much` as ratio"),
        ("random:ratio", "not of the form"),
        ("random:ratio=2", "from 0 to 1"),
        ("random", "needs a ratio"),
        ("keep_all:ratio=0.5", "no ratio but 0"),
        ("exact:ratio=0.5", "has no parameters"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, fault: str) -> None:
    with pytest.raises(EvalError, match=fault) as caught:
        parse_policy(text)
    assert ("file.py:name" in (caught.value.hint or "")) == ("unknown method" in fault)


def test_a_scorer_of_a_users_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    policy = parse_policy(f"{path}:every:ratio=0.5,step=4")
    assert (policy.name, policy.params) == ("every", {"ratio": 0.5, "step": 4})
    assert policy.compression is not None
    assert policy.compression.scorer.name == "every"
    with pytest.raises(EvalError, match="no parameter `size`"):
        parse_policy(f"{path}:every:ratio=0.5,size=4")


def test_a_file_that_is_no_policy_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    with pytest.raises(DataFileError, match="no such file"):
        parse_policy(f"{path}:every:ratio=0.5")
    path.write_text(OWN)
    with pytest.raises(DataFileError, match="has no scorer `other`") as caught:
        parse_policy(f"{path}:other:ratio=0.5")
    assert "it has every" in (caught.value.hint or "")
    path.write_text("1 / 0")
    with pytest.raises(DataFileError, match="cannot be run: ZeroDivisionError"):
        parse_policy(f"{path}:every:ratio=0.5")
