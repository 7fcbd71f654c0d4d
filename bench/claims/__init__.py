"""The published figures, each reproduced by one file. ``make claim NAME=x`` runs one; CONTRIBUTING.md lists them."""

from __future__ import annotations

import importlib

from bench.harness import Measure

CLAIMS = {
    "identical-tokens": "bench.claims.identical_tokens",
    "hit-equals-miss": "bench.claims.hit_equals_miss",
    "storm": "bench.claims.storm",
    "eval-signal": "bench.claims.eval_signal",
    "eval-speed": "bench.claims.eval_speed",
    "kl-exact": "bench.claims.kl_exact",
}


def measure_of(name: str) -> Measure:
    """The ``measure`` function of a claim. Imports its file only now: each needs heavy libraries. Raises KeyError."""
    measure: Measure = importlib.import_module(CLAIMS[name]).measure
    return measure
