"""What fidelity says of methods whose order is known, on a real model."""

from __future__ import annotations

import pytest

from bench.drive import ModelEngines
from bench.text import long_text
from kvloom.eval.fidelity import Fidelity, fidelity, fidelity_at
from kvloom.eval.policy import parse_policy
from kvloom.eval.recall_texts import recall_passages
from kvloom.eval.subject import subject_of

pytestmark = pytest.mark.real


POLICIES = {
    "mild": parse_policy("random:ratio=0.3"),
    "hard": parse_policy("random:ratio=0.7"),
    "nothing": parse_policy("keep_none"),
}


def kept(found: Fidelity) -> float:
    assert found.recall is not None
    return found.recall.kept.mean


def test_texts_that_tell_things_twice_know_who_keeps_nothing(smollm2: ModelEngines) -> None:
    subject = subject_of(smollm2.loaded)
    passages = recall_passages(subject, 400, 2)
    found = [fidelity_at(subject, policy, passages) for policy in POLICIES.values()]
    kls = [each.recall.kl.mean for each in found if each.recall]
    assert kls == sorted(kls)
    mild, hard, nothing = map(kept, found)
    assert mild > 0.5 > hard > 0.1 > nothing


def test_on_any_text_what_is_recalled_knows_it_and_all_tokens_together_do_not(smollm2: ModelEngines) -> None:
    subject = subject_of(smollm2.loaded)
    tokens = smollm2.encode(long_text())
    texts = [tokens[n * 512 : (n + 1) * 512] for n in range(3)]
    hard, nothing = (fidelity(subject, POLICIES[name], texts) for name in ("hard", "nothing"))
    assert nothing.kl.mean < hard.kl.mean
    assert kept(nothing) < kept(hard)
