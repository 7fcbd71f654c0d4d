"""Greedy tokens of forty prompts are those that are on file: what changes no answer on purpose changes none at all."""

from __future__ import annotations

import pytest

from bench.drive import ModelEngines, load
from golden_tokens import MODELS, greedy_tokens, stored
from kvloom.model.files.store import pull


@pytest.mark.real
@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_are_those_on_file(name: str) -> None:
    pull(name)
    engines: ModelEngines = load(name)
    found, expected = greedy_tokens(engines), stored(name)
    different = [n for n, (ours, theirs) in enumerate(zip(found, expected, strict=True)) if ours != theirs]
    assert not different
