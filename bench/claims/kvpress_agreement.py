"""kvpress-agreement: methods that kvpress has too keep the same entries there, where both define them alike.

kvpress 0.5.5 runs in an environment of its own (``bench/peers.sh kvpress``), transformers on the weights of the same
GGUF file in float32; kvloom keeps KV and activations in float32. Contexts are prose with a needle in it. Agreement is
the share of what either keeps that both keep, the mean over contexts, layers and KV heads, at two ratios.

``CASES`` says of every method what makes the definitions alike, or why they are not: those are reported, and ask for
nothing. Random draws are no case, nor are predictors and profiles, which have to be trained for a model and which
kvpress has none for of this one (KVzap, FastKVzip, its LU-KV, DuoAttention).
"""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.drive import ModelEngines, load
from bench.harness import Outcome, at_least, note, worst_of
from bench.remote import ROOT, environment_of, peers_directory
from kvloom.eval.corpus import essays
from kvloom.eval.policy import parse_policy
from kvloom.eval.single import SingleSequence
from kvloom.model.files.store import pull
from kvloom.policy.compression import Compression
from kvloom.policy.compression.base import Candidates

MODEL = "smollm2-135m-instruct"
GOAL = 0.95
RATIOS = (0.5, 0.8)
SEED = 0
LENGTHS = (342, 1002)
"""Of so many tokens both keep as many, at these ratios: kvpress rounds down, kvloom to the nearest."""

_PATIENCE_S = 3000.0
_CHUNK = 165
"""Divides what Compactor looks at of such contexts, all but twelve tokens, without a rest."""


@dataclass(frozen=True, slots=True)
class Case:
    """``press``: an expression in kvpress's classes. ``method``: what ``--policy`` calls ours. ``alike``: what makes
    the definitions the same, where they are not as they stand. ``differs``: why they are not the same.
    """

    press: str
    method: str
    alike: str = ""
    differs: str = ""
    eager: bool = False

    @property
    def name(self) -> str:
        return self.press.replace("Press", "").replace("ratio, ", "").replace("(ratio)", "")

    @property
    def compression(self) -> Compression:
        name, _, words = self.method.partition(":")
        found = parse_policy(f"{name}:" + ",".join(filter(None, (f"ratio={RATIOS[0]}", words)))).compression
        assert found is not None
        return found


_EXPECTED = "every query of the context is looked at, as it has no more than 1,024"
_SKETCH = "the sketch's numbers are those that kvloom draws"

CASES = (
    Case("StreamingLLMPress(ratio, n_sink=4)", "sink_recent:sinks=4"),
    Case("KnormPress(ratio)", "knorm"),
    Case("KeyDiffPress(ratio)", "keydiff"),
    Case("SnapKVPress(ratio)", "snapkv"),
    Case("TOVAPress(ratio)", "tova"),
    Case("ObservedAttentionPress(ratio)", "observed_attention", eager=True),
    Case(
        "ObservedAttentionPress(ratio)",
        "h2o",
        differs="kvpress divides by the number of queries that see an entry; H2O's sums favour early entries",
        eager=True,
    ),
    Case("ExpectedAttentionPress(ratio)", "expected_attention:sampled=1024", alike=_EXPECTED),
    Case(
        "ExpectedAttentionPress(ratio)",
        "expected_attention",
        differs="statistics of 512 queries that are spread over the context, so that not all of it is computed again",
    ),
    Case("LeverageScorePress(ratio)", "leverage", alike=_SKETCH),
    Case(
        f"CompactorPress(ratio, chunk_size={_CHUNK}, blending=0.35)",
        f"compactor:chunk={_CHUNK}",
        alike=f"{_SKETCH}; the weight of leverage is given; chunks without a rest",
    ),
    Case(
        "CompactorPress(ratio)",
        "compactor",
        differs="kvpress weighs leverage by the ratio, and what pads its last chunk takes part in it; of more than "
        "1,024 queries kvloom looks at some",
    ),
    Case(
        "KVzipPress(ratio)",
        "kvzip:allocator=global,chunk=4096,overlap=0,protect_first=4",
        alike="no words ask for the repetition, which is one chunk; kvpress's four sinks are protected",
    ),
    Case(
        "KVzipPress(ratio)",
        "kvzip:allocator=global",
        differs="chunks of 1,024 that begin with eight tokens before them; no sinks are safe",
    ),
    Case(
        "PyramidKVPress(ratio, window_size=2)",
        "snapkv:window=2,allocator=pyramid",
        alike="a window below the last layer's share: with a larger one kvpress gives all layers the same",
    ),
    Case(
        "PyramidKVPress(ratio)",
        "snapkv:allocator=pyramid",
        differs="kvpress falls back to even budgets where the last layer's share is below the window",
    ),
    Case("AdaKVPress(SnapKVPress(ratio))", "snapkv:allocator=adakv"),
    Case("AdaKVPress(KnormPress(ratio))", "knorm:allocator=adakv"),
    Case("AdaKVPress(KeyDiffPress(ratio))", "keydiff:allocator=adakv"),
    Case(
        "AdaKVPress(ExpectedAttentionPress(ratio))",
        "expected_attention:sampled=1024,allocator=adakv",
        alike=_EXPECTED,
    ),
    Case("CriticalKVPress(SnapKVPress(ratio))", "snapkv:critical=0.5"),
    Case("CriticalKVPress(TOVAPress(ratio))", "tova:critical=0.5"),
    Case("CriticalAdaKVPress(SnapKVPress(ratio))", "snapkv:critical=0.5,allocator=adakv"),
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of one case at one ratio: the mean over heads, and the least of a context's mean over a layer's heads."""

    case: Case
    ratio: float
    mean: float
    least: float


def agreement(ours_LKS: Any, theirs_LKS: Any) -> Any:
    """(L, K): what both keep, as a share of what the one that keeps more keeps."""
    both_LK = (ours_LKS & theirs_LKS).sum(axis=-1)
    return both_LK / np.maximum(1, np.maximum(ours_LKS.sum(axis=-1), theirs_LKS.sum(axis=-1)))


def contexts(engines: ModelEngines, lengths: Sequence[int]) -> list[list[int]]:
    """Prose with a needle in it, one of each length."""
    rng, sentences = random.Random(SEED), essays().sentences
    found = []
    for length in lengths:
        count = length // 6
        start = rng.randrange(len(sentences) - count)
        needle = f"The special magic number for the harbour is {rng.randrange(1_000_000, 10_000_000)}."
        text = [*sentences[start : start + count // 3], needle, *sentences[start + count // 3 : start + count]]
        found.append(engines.encode(" ".join(text))[:length])
        assert len(found[-1]) == length
    return found


def theirs(gguf: Path, prompts: Sequence[Sequence[int]], cases: Sequence[Case]) -> Mapping[str, Any]:
    """Masks by ``press/ratio/context``. Raises FileNotFoundError when it is not there, CalledProcessError."""
    directory = peers_directory() / "kvpress"
    if not (directory / ".installed").exists():
        raise FileNotFoundError("kvpress is not installed: bench/peers.sh kvpress")
    python = directory / "bin" / "python"
    job = {
        "gguf": str(gguf),
        "contexts": [list(prompt) for prompt in prompts],
        "ratios": RATIOS,
        "presses": list(dict.fromkeys(case.press for case in cases)),
        "eager": [case.press for case in cases if case.eager],
        "seed": SEED,
    }
    with tempfile.TemporaryDirectory() as place:
        job_file, out = Path(place) / "job.json", Path(place) / "kept.npz"
        job_file.write_text(json.dumps(job))
        command = [str(python), "-m", "bench.peers.kvpress_kept", str(job_file), str(out)]
        waiting = {"OMP_WAIT_POLICY": "PASSIVE"}  # where others compute too, threads that spin take minutes
        subprocess.run(command, cwd=ROOT, env=environment_of(python) | waiting, check=True, timeout=_PATIENCE_S)
        with np.load(out) as found:
            return dict(found)


def ours(engines: ModelEngines, context: list[int], case: Case) -> dict[float, Any]:
    """By ratio a mask (layers, KV heads, tokens) of what stays."""
    compression, engine = case.compression, engines.loaded.engine
    sequence = SingleSequence(engine, 2 * len(context) + 64)
    sequence.watch(compression, context)
    sequence.append(context)
    candidates = sorted(_candidates(sequence, compression), key=lambda each: each.layer)
    found = {}
    for ratio in RATIOS:
        mask_LKS = np.zeros((len(candidates), len(candidates[0].scores), len(context)), np.bool_)
        for choice in compression.choose(candidates, engine.model.weights_id, ratio):
            for head, kept in enumerate(choice.kept):
                mask_LKS[choice.layer, head, kept] = True
        found[ratio] = mask_LKS
    return found


def _candidates(sequence: SingleSequence, compression: Compression) -> Iterator[Candidates]:
    for context in sequence.contexts(compression):
        found = context.candidates(compression.scores(context))
        if context.output_HDC is not None:
            values = list(context.v_SKD.transpose(1, 0, 2))
            found = compression.critical.weighed(found, values, context.output_HDC)
        yield found


def compared(
    engines: ModelEngines, prompts: Sequence[list[int]], cases: Sequence[Case], kept: Mapping[str, Any]
) -> Iterator[Agreement]:
    for case in cases:
        shares: dict[float, list[Any]] = {ratio: [] for ratio in RATIOS}
        for number, prompt in enumerate(prompts):
            for ratio, mask_LKS in ours(engines, prompt, case).items():
                shares[ratio].append(agreement(mask_LKS, kept[f"{case.press}/{ratio}/{number}"]))
        for ratio, of_contexts in shares.items():
            least = min(float(share_LK.mean(axis=1).min()) for share_LK in of_contexts)
            found = Agreement(case, ratio, float(np.mean([share_LK.mean() for share_LK in of_contexts])), least)
            note(f"{case.method} at {ratio}: {found.mean:.4f}, worst layer {found.least:.4f}")
            yield found


def outcome_of(found: Sequence[Agreement], version: str, quick: bool) -> Outcome:
    """Cases that are alike must agree; what the others do stands in the details."""
    checks = [
        at_least(f"{each.case.name}, {each.ratio:.0%} removed", each.mean, GOAL, "of entries", each.case.alike)
        for each in found
        if not each.case.differs
    ]
    details = {
        "quick": quick,
        "kvpress": version,
        "worst_layers": {f"{each.case.method} {each.ratio}": round(each.least, 4) for each in found},
        "defined_otherwise": {
            f"{each.case.name} and {each.case.method}, {each.ratio:.0%} removed": {
                "agreement": round(each.mean, 4),
                "why": each.case.differs,
            }
            for each in found
            if each.case.differs
        },
    }
    return worst_of("kvpress-agreement", checks, details)


def measure(quick: bool) -> Outcome:
    """Full: contexts of 342 and 1,002 tokens. Quick: of 342."""
    manifest = pull(MODEL)
    engines = load(MODEL, "float32", "float32")
    prompts = contexts(engines, LENGTHS[:1] if quick else LENGTHS)
    try:
        kept = theirs(manifest.weight_path(0), prompts, CASES)
    except FileNotFoundError as error:
        note(str(error))
        return worst_of("kvpress-agreement", [], {"quick": quick, "missing": str(error)})
    return outcome_of(list(compared(engines, prompts, CASES, kept)), str(kept["version"]), quick)
