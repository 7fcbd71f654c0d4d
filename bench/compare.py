"""Run workloads on all engines in one sitting.

All engines are loaded; then, cell by cell and round by round, they take turns, the others stopped: what disturbs one
run disturbs its neighbours alike. The machine's limits are measured in every round.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bench.cells import Cell, cells
from bench.comparison import OURS, About, Comparison, Counted, Peak, Sample
from bench.harness import note
from bench.peers.base import PEERS
from bench.remote import ROOT, PeerFailed, RemotePeer, dequantize, interpreter, setup_of
from bench.text import long_text
from kvloom.bench.limits import Limits
from kvloom.bench.workloads import Tokens, random_tokens, text_tokens
from kvloom.config import default_threads
from kvloom.model.manifest import Manifest
from kvloom.model.store import pull
from kvloom.model.tokenizer import load_tokenizer

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


def compare(groups: frozenset[str], quick: bool, peers: Sequence[str]) -> Comparison:
    """Measure kvloom and those of ``peers`` that are installed, on all cores of this process.

    A peer that fails is noted and left out from there.
    """
    chosen = cells(groups, quick)
    capacity = max((cell.workload.kv_tokens for cell in chosen), default=0) + _SPARE_TOKENS
    result = Comparison(default_threads(), quick, capacity)
    for model in dict.fromkeys(cell.model for cell in chosen):
        _compare_on(model, [cell for cell in chosen if cell.model == model], peers, result)
    return result


def _compare_on(model: str, chosen: list[Cell], peers: Sequence[str], result: Comparison) -> None:
    manifest = pull(model)
    prompts = _prompts(manifest)
    with _loaded(manifest, peers, result) as running:
        _meet(model, running, prompts, result)
        for number in range(max(cell.rounds for cell in chosen)):
            result.limits.append(measure_limits_apart(result.threads))
            for turn, cell in enumerate(cell for cell in chosen if cell.rounds > number):
                start = (number + turn) % len(running)
                for peer in [*running[start:], *running[:start]]:
                    if not PEERS[peer.name].takes_part(cell.group, number):
                        continue
                    with _noting_failure(peer, running, result):
                        _measure(peer, cell, prompts.tokens(cell, seed=1000 * number + turn), number, result)


@contextmanager
def _loaded(manifest: Manifest, peers: Sequence[str], result: Comparison) -> Iterator[list[RemotePeer]]:
    setup = setup_of(manifest, result.threads, result.kv_tokens)
    running: list[RemotePeer] = []
    try:
        for name in [OURS, *(name for name in peers if name != OURS)]:
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


def _meet(model: str, running: list[RemotePeer], prompts: Prompts, result: Comparison) -> None:
    """Warm every peer up, and see whether it says what kvloom says."""
    answers: dict[str, list[int]] = {}
    for peer in list(running):
        with _noting_failure(peer, running, result):
            loaded = peer.peak_bytes()
            peer.run([random_tokens(prompts.vocab_size, 7)(256)], 4)
            peer.reset()
            answers[peer.name] = peer.run([prompts.probe], _PROBE_TOKENS)[0].tokens
            agreeing = _leading(answers[OURS], answers[peer.name])
            result.about.append(About(model, peer.name, peer.facts, loaded, agreeing, _PROBE_TOKENS))
            note(f"{peer.name} {peer.facts.version}: {agreeing} of {_PROBE_TOKENS} first tokens as kvloom's")


def _measure(peer: RemotePeer, cell: Cell, tokens: Tokens, number: int, result: Comparison) -> None:
    name = cell.workload.name
    before = peer.counters() if peer.name == OURS else {}
    peer.peak_bytes()
    for figure in cell.workload.measure(peer, tokens):
        note(f"round {number + 1}: {peer.name}, {figure.name}: {figure.value:.1f} {figure.unit}")
        result.samples.append(Sample(cell.group, cell.model, peer.name, number, figure.name, figure.value, figure.unit))
    result.peaks.append(Peak(cell.group, cell.model, peer.name, number, name, peer.peak_bytes()))
    if peer.name == OURS:
        result.counted.append(Counted(cell.group, name, before, peer.counters()))


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
