"""Run workloads on all engines in one sitting.

All engines are loaded; then, cell by cell and round by round, they take turns, the others stopped, so that a
disturbance affects adjacent runs alike. All run the first round, contenders the rest, within seconds of each other.
The machine's limits are measured in every cell.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bench.cells import DEFAULT_SIZES, Cell, cells
from bench.comparison import OURS, About, Comparison, Counted, Peak, Sample, Stopped
from bench.harness import note
from bench.pace import FarBehind, Paced, quicker
from bench.peers.base import PEERS
from bench.random_models import obtain
from bench.remote import ROOT, PeerFailed, RemotePeer, dequantize, interpreter, setup_of
from bench.text import long_text
from kvloom.bench.limits import Limits
from kvloom.bench.workloads import Tokens, random_tokens, text_tokens
from kvloom.config import default_threads
from kvloom.model.files.loading import load_tokenizer
from kvloom.model.files.manifest import Manifest

_PROBE = "The capital of France is Paris, and the capital of Italy is"
_PROBE_TOKENS = 12
_SPARE_TOKENS = 1024
"""KV capacity beyond what the largest workload holds: engines round, and keep a block or two for themselves."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Where the prompts of a model come from."""

    vocab_size: int
    text: list[int]
    probe: list[int]

    def tokens(self, cell: Cell, seed: int) -> Tokens:
        """The same for every peer."""
        if cell.text:
            return text_tokens(self.text, self.vocab_size, seed)
        return random_tokens(self.vocab_size, seed)


def compare(
    groups: frozenset[str], quick: bool, peers: Sequence[str], sizes: Sequence[str] = DEFAULT_SIZES
) -> Comparison:
    """Measure kvloom and those of ``peers`` that are installed, on all cores of this process.

    A peer that fails is noted and left out from there.
    """
    chosen = cells(groups, quick, sizes)
    result = Comparison(default_threads(), quick, _capacity(chosen))
    for model in dict.fromkeys(cell.model for cell in chosen):
        _compare_on(model, [cell for cell in chosen if cell.model == model], peers, result)
    return result


def _compare_on(model: str, chosen: list[Cell], peers: Sequence[str], result: Comparison) -> None:
    manifest = obtain(model)
    prompts = _prompts(manifest)
    names = _taking_part(chosen, peers, result)
    answers: dict[str, list[int]] = {}
    for loaded in [[name] for name in names] if any(cell.alone for cell in chosen) else [names]:
        with _loaded(manifest, loaded, _capacity(chosen), result) as running:
            _meet(model, running, prompts, answers, result)
            for turn, cell in enumerate(chosen):
                result.limits.append(measure_limits_apart(result.threads))
                take_rounds(cell, turn, running, prompts, result)


def _capacity(chosen: Sequence[Cell]) -> int:
    return max((cell.workload.kv_tokens for cell in chosen), default=0) + _SPARE_TOKENS


def _taking_part(chosen: Sequence[Cell], peers: Sequence[str], result: Comparison) -> list[str]:
    """kvloom first. Notes who was asked for and takes no part in any of the cells."""
    asked = [name for name in PEERS if name == OURS or name in peers]
    names = [name for name in asked if any(PEERS[name].takes_part(cell.group) for cell in chosen)]
    for name in set(asked) - set(names):
        if PEERS[name].wants_directory:
            result.absent[name] = f"{chosen[0].model}: it needs the weights in float32"
    return names


def take_rounds(cell: Cell, turn: int, running: list[RemotePeer], prompts: Prompts, result: Comparison) -> None:
    """All of ``running`` in the first round, kvloom (the first of them) and its contenders in the others."""
    seen = len(result.samples)
    taking = [peer for peer in running if PEERS[peer.name].takes_part(cell.group)]
    best_s: Sequence[float] = ()
    for number in range(cell.rounds if taking else 0):
        start = number % len(taking)
        for peer in [*taking[start:], *taking[:start]]:
            paced = Paced(peer, () if number else best_s)
            with _noting_failure(peer, running, result), _noting_stop(peer, cell, result):
                _measure(peer, paced, cell, prompts.tokens(cell, seed=1000 * number + turn), number, result)
                if peer.name != OURS:
                    best_s = quicker(best_s, paced.taken_s)
        contenders = result.contenders(cell.group, {sample.figure for sample in result.samples[seen:]})
        taking = [peer for peer in running if peer.name in contenders]
        if not taking:  # alone, and far behind those before it
            break


@contextmanager
def _loaded(manifest: Manifest, names: Sequence[str], kv_tokens: int, result: Comparison) -> Iterator[list[RemotePeer]]:
    setup = setup_of(manifest, result.threads, kv_tokens)
    running: list[RemotePeer] = []
    try:
        for name in names:
            python = interpreter(name)
            if python is None:
                result.absent[name] = "not installed: bench/peers.sh"
                continue
            note(f"loading {name}")
            try:
                if PEERS[name].wants_directory:
                    dequantize(setup.gguf, setup.directory)
                running.append(RemotePeer(name, python, setup))
            except (PeerFailed, subprocess.CalledProcessError) as failure:
                _leave_out(name, f"{manifest.name}: {failure}", result)
        yield running
    finally:
        for peer in running:
            peer.close()


def _meet(
    model: str, running: list[RemotePeer], prompts: Prompts, answers: dict[str, list[int]], result: Comparison
) -> None:
    """Warm up every peer, and count how many of its tokens agree with kvloom's. ``answers``: of those met so far."""
    for peer in list(running):
        with _noting_failure(peer, running, result):
            loaded = peer.peak_bytes()
            peer.run([random_tokens(prompts.vocab_size, 7)(256)], 4)
            peer.reset()
            answers[peer.name] = peer.run([prompts.probe], _PROBE_TOKENS)[0].tokens
            agreeing = _leading(answers[OURS], answers[peer.name])
            result.about.append(About(model, peer.name, peer.facts, loaded, agreeing, _PROBE_TOKENS))
            note(f"{peer.name} {peer.facts.version}: {agreeing} of {_PROBE_TOKENS} first tokens as kvloom's")


def _measure(peer: RemotePeer, paced: Paced, cell: Cell, tokens: Tokens, number: int, result: Comparison) -> None:
    name = cell.workload.name
    peer.expect(cell.workload.apart, cell.workload.longest)
    before = peer.counters() if peer.name == OURS else {}
    peer.peak_bytes()
    for figure in cell.workload.measure(paced, tokens):
        note(f"round {number + 1}: {peer.name}, {figure.name}: {figure.value:.1f} {figure.unit}")
        result.samples.append(Sample(cell.group, cell.model, peer.name, number, figure.name, figure.value, figure.unit))
    result.peaks.append(Peak(cell.group, cell.model, peer.name, number, name, peer.peak_bytes()))
    if peer.name == OURS:
        result.counted.append(Counted(cell.group, name, before, peer.counters()))


@contextmanager
def _noting_stop(peer: RemotePeer, cell: Cell, result: Comparison) -> Iterator[None]:
    try:
        yield
    except FarBehind as behind:
        note(f"{peer.name}, {cell.workload.name}: stopped, {behind}")
        result.stopped.append(Stopped(cell.group, cell.model, peer.name, cell.workload.name, str(behind)))


@contextmanager
def _noting_failure(peer: RemotePeer, running: list[RemotePeer], result: Comparison) -> Iterator[None]:
    """A peer that fails takes no further part; kvloom must not fail."""
    try:
        yield
    except PeerFailed as failure:
        if peer.name == OURS:
            raise
        running.remove(peer)
        peer.close()
        _leave_out(peer.name, str(failure), result)


def _leave_out(name: str, why: str, result: Comparison) -> None:
    note(f"{name} is left out: {why}")
    result.absent[name] = why


def measure_limits_apart(threads: int) -> Limits:
    """In a process of its own: it wakes torch's threads."""
    command = [sys.executable, "-m", "kvloom.bench.limits", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return Limits(**json.loads(done.stdout))


def _prompts(manifest: Manifest) -> Prompts:
    encode = load_tokenizer(manifest).encode
    return Prompts(manifest.spec.vocab_size, encode(long_text()), encode(_PROBE))


def _leading(left: list[int], right: list[int]) -> int:
    """
    >>> _leading([1, 2, 3], [1, 2, 4])
    2
    """
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=True)) if a != b), len(left))
