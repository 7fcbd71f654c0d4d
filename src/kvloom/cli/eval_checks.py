"""``kvloom eval fidelity`` and ``kvloom eval trust``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import Progress

from kvloom.cli import backend
from kvloom.cli.say import say
from kvloom.cli.settings import Settings
from kvloom.errors import DataFileError, EvalError
from kvloom.eval.fidelity import Fidelity, Passage, View, fidelity_at, noise_floor
from kvloom.eval.identity import policy_digest
from kvloom.eval.policy import EXACT, FLOOR, parse_policy
from kvloom.eval.recall_texts import recall_passages
from kvloom.eval.stats import Interval
from kvloom.eval.subject import Subject
from kvloom.eval.trust.matrix import examine, setting_of
from kvloom.eval.trust.situations import Cell

Cutting = tuple[int, int, float]
"""(tokens of a piece, pieces at most, share of a piece that is context)"""


def compare_on_texts(
    model: str, files: list[Path], policy_text: str, cutting: Cutting, as_json: bool, settings: Settings
) -> None:
    """Print what a policy does to the probabilities of texts; of made ones, whose tokens need the context, if none."""
    policy = parse_policy(policy_text)
    texts = [_read(path) for path in files]
    config = settings.engine(model)
    subject = backend.open_subject(config)
    size, count, share = cutting
    size = min(size, subject.engine.max_len)
    if not 0.0 < share < 1.0:
        raise EvalError(f"the context's fraction of a text must be between 0 and 1, got {share}")
    passages = (
        [Passage(piece, round(len(piece) * share)) for piece in _pieces(subject, texts, size, count)]
        if texts
        else recall_passages(subject, size, count, config.seed)
    )
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("tokens", total=sum(len(passage.tokens) for passage in passages))
        found = fidelity_at(subject, policy, passages, lambda tokens: bar.advance(task, tokens))
        floor = None if policy.name in (EXACT.name, FLOOR) else noise_floor(subject, passages)
    facts: dict[str, object] = {"model": subject.name, "policy": policy.name, "params": dict(policy.params)}
    facts |= {"pieces": len(passages), "code": policy_digest(policy), "texts": "given" if texts else "made"}
    facts |= dataclasses.asdict(found) | {"floor": None if floor is None else dataclasses.asdict(floor)}
    print(json.dumps(facts, indent=2) if as_json else "\n".join([*_fidelity_lines(found), *_floor_lines(floor)]))


def check_trust(model: str, length: int | None, as_json: bool, settings: Settings) -> None:
    """Print the cold-against-warm matrix; exit status 1 when a cell does not hold."""
    subject = backend.open_subject(settings.engine(model))
    setting = setting_of(subject, length)
    say(f"{subject.name}: prompts of {setting.length} tokens, {setting.new_tokens} answer tokens each, cold and warm")
    cells = examine(setting, lambda name, cell: say(f"  {name}: {'holds' if cell.holds else 'FAILS'}"))
    holds = all(cell.holds for cell in cells.values())
    if as_json:
        each = {name: dataclasses.asdict(cell) | {"holds": cell.holds} for name, cell in cells.items()}
        print(json.dumps({"model": subject.name, "holds": holds, "cells": each}, indent=2))
    else:
        print("\n".join(_trust_line(name, cell) for name, cell in cells.items()))
    if not holds:
        raise typer.Exit(1)


def _trust_line(name: str, cell: Cell) -> str:
    tokens = "identical tokens" if cell.identical else "DIFFERENT TOKENS"
    hits = (
        f"{cell.cached_tokens} of {cell.prompt_tokens} prompt tokens from the cache" if cell.cached_tokens else "NO HIT"
    )
    return f"{name:<20} {tokens}, {hits}" + (f" ({cell.note})" if cell.note else "")


def _fidelity_lines(found: Fidelity) -> list[str]:
    kl, top, near, recall = found.kl, found.top1_agreement, found.near, found.recall
    recalled = ["recall              no token of these texts needs its context"]
    if recall is not None:
        kept = recall.kept
        recalled = [
            f"KL of recall        {_interval(recall.kl)}, over {recall.tokens} tokens that need the context",
            f"recall kept         {100 * kept.mean:.1f}% [{100 * kept.low:.1f}, {100 * kept.high:.1f}] of what the "
            "context gives them",
        ]
    return [
        f"tokens compared     {found.tokens}",
        f"perplexity          {found.perplexity_other:.4f} (exact {found.perplexity_exact:.4f})",
        f"KL (nats/token)     {_interval(kl)}, largest {found.max_kl:.4f}: rewards recency",
        f"KL near the cut     {_interval(near.kl)}, over {near.tokens} tokens: blind to what is needed later",
        *recalled,
        f"top-1 agreement     {100 * top.mean:.2f}% [{100 * top.low:.2f}, {100 * top.high:.2f}]",
        f"KV bytes held       {100 * found.bytes_ratio:.1f}% of exact",
    ]


def _floor_lines(floor: View | None) -> list[str]:
    if floor is None:
        return []
    top = 100 * floor.top1_agreement.mean
    return [f"noise floor         KL {_interval(floor.kl)}, top-1 agreement {top:.2f}%: all is moved, nothing dropped"]


def _interval(kl: Interval) -> str:
    return f"{kl.mean:.6f} [{kl.low:.6f}, {kl.high:.6f}]"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataFileError(error.strerror or "cannot be read", path=path) from None
    except UnicodeDecodeError as error:
        raise DataFileError(f"is not UTF-8 at byte {error.start}", path=path) from None


def _pieces(subject: Subject, texts: list[str], size: int, count: int) -> list[list[int]]:
    """Whole pieces of ``size`` tokens; of a text that is shorter, all of it."""
    pieces: list[list[int]] = []
    for text in texts:
        ids = subject.tokenizer.encode(text)
        whole = [ids[at : at + size] for at in range(0, len(ids) - size + 1, size)]
        pieces += whole or [ids]
    if not pieces:
        raise EvalError("the files contain no text")
    return pieces[:count]
