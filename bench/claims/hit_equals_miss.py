"""hit-equals-miss: an answer from cached KV has the tokens of one computed from scratch, and the cache was really used.

Two models x nine situations (``kvloom.eval.trust``). A cell holds when the tokens are identical cold and warm and reuse
happened; the ledger is audited in each.
"""

from __future__ import annotations

from bench.drive import load
from bench.harness import Outcome, note
from bench.text import long_text
from kvloom.eval.trust.situations import SITUATIONS, Cell, Setting
from kvloom.model.files.store import pull


def measure(quick: bool) -> Outcome:
    """Full: the dense model and the window hybrid, 18 cells. Quick: shorter prompts on the dense model, 9 cells."""
    dense = {"smollm2-135m-instruct": (160, 96) if quick else (480, 160)}
    models = dense if quick else dense | {"gemma-3-270m": (640, 448)}
    cells: dict[str, Cell] = {}
    for model, (length, growing_from) in models.items():
        pull(model)
        engines = load(model)
        setting = Setting(engines.make, engines.encode(long_text()), length, growing_from, 12 if quick else 24)
        for name, situation in SITUATIONS.items():
            cell = cells[f"{model}/{name}"] = situation(setting)
            note(f"{model} {name}: {'holds' if cell.holds else 'FAILS'}, {cell.cached_tokens} cached, {cell.note}")
    holding = sum(cell.holds for cell in cells.values())
    details = {
        name: {"identical": c.identical, "cached_tokens": c.cached_tokens, "prompt_tokens": c.prompt_tokens}
        for name, c in cells.items()
    }
    goal = len(cells)
    return Outcome("hit-equals-miss", holding, goal, "cells", holding == goal, {"quick": quick, "cells": details})
