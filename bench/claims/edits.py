"""edits: a tool's result removed from the middle of a context, and a history forked under other system prompts.

After a result of 1K tokens has been removed from the middle of 6K, what follows is read from KV that was computed with
the result before it, as it lies or repaired, and compared with a new prefill of the edited prompt: the time to the
first token, the KL divergence of every token of the new prefill's answers, and whether each of them would have been
said, of answers about facts that the rest states. In exact mode, without a fusion, what follows is computed: answers
are those of a request that finds nothing at all, and the same to the bit whatever the result said, so that what it said
is guessed at chance. Eight forks of one history, each under a system prompt of its own, are compared with one in the
memory that they hold, and with a new prefill in time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean, median

from bench.drive import ModelEngines, load
from bench.edited import (
    COLOURS,
    OPEN,
    SECRET,
    Context,
    Question,
    Said,
    answered,
    asked,
    context,
    encoded,
    forks_of,
    most_held_bytes,
    without_tool,
)
from bench.harness import Check, Outcome, at_least, at_most, note, worst_of
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.edits import Edit
from kvloom.engine.shadow import kl_divergence
from kvloom.model.files.store import pull
from kvloom.policy.fusion import parse_fusion

MODEL = "smollm2-135m-instruct"
REPAIR = "fusionrag:ratio=0.05"
KL_GOALS = {"reuse": 0.05, REPAIR: 0.02}
"""Nats per token, by how what follows is reused."""

TTFT_GOAL, SAME_GOAL = 0.15, 0.95
FORK_TTFT_GOAL, MEMORY_GOAL = 0.20, 1.15
KEPT, COLD, NOT_KEPT = CacheParams(), CacheParams(read=False, write=False), CacheParams(write=False)


@dataclass(frozen=True, slots=True)
class Size:
    """``length``: tokens of a context; ``deleted``: of the result in it. ``colours``: that the result may state."""

    length: int
    deleted: int
    contexts: int
    colours: int
    forks: int


FULL, QUICK = Size(6144, 1024, 6, 8, 8), Size(1536, 256, 1, 2, 3)


@dataclass(slots=True)
class Heard:
    """Of one way to reuse, over all answers. ``kls``: by token; ``same``: by answer about a fact."""

    kls: list[float] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)
    ttfts_s: list[float] = field(default_factory=list)

    def add(self, exact: Said, dictated: Said, question: Question) -> None:
        self.kls += map(kl_divergence, exact.logits, dictated.logits)
        self.ttfts_s.append(dictated.ttft_s)
        if question is not OPEN:
            would_say = [int(logits_V.argmax()) for logits_V in dictated.logits]
            self.same.append(would_say == exact.tokens)


def reusing(edit: Edit, text: str) -> CacheParams:
    return edit.reusing(parse_fusion(text), NOT_KEPT)


@dataclass(slots=True)
class Deleted:
    """What came of contexts without their tool's result. ``exact``: whether exact mode said what cold requests said."""

    ways: dict[str, Heard] = field(default_factory=lambda: {name: Heard() for name in KL_GOALS})
    new_s: list[float] = field(default_factory=list)
    exact: bool = True

    def add(self, engines: ModelEngines, it: Context) -> None:
        engine = engines.make("512MiB")
        answered(engine, it.tokens, 1, KEPT)
        for number, question in enumerate(it.questions):
            edit = without_tool(engines, it, question)
            exact = answered(engine, edit.tokens, question.tokens, KEPT)
            if not number:
                cold = answered(engine, edit.tokens, question.tokens, COLD)
                self.new_s.append(cold.ttft_s)
                self.exact &= cold.tokens == exact.tokens
            for name, heard in self.ways.items():
                dictated = answered(engine, edit.tokens, question.tokens, reusing(edit, name), exact.tokens)
                heard.add(exact, dictated, question)
        engine.check()

    def checks(self) -> list[Check]:
        new_s = median(self.new_s)
        checks = [at_least("exact mode says what a new prefill says", float(self.exact), 1.0, "of 1")]
        for name, goal in KL_GOALS.items():
            heard = self.ways[name]
            ttft_s = median(heard.ttfts_s)
            spread = f"{1e3 * ttft_s:.0f} ms against {1e3 * new_s:.0f} ms"
            checks += [
                at_most(f"{name}: first token", ttft_s / new_s, TTFT_GOAL, "of a new prefill", spread),
                at_most(f"{name}: KL", fmean(heard.kls), goal, "nats per token", f"{len(heard.kls)} tokens"),
                at_least(f"{name}: same answers", fmean(heard.same), SAME_GOAL, "of them", f"{len(heard.same)}"),
            ]
        return checks


def guessed(engines: ModelEngines, size: Size, number: int) -> tuple[bool, dict[str, float]]:
    """Whether exact mode has the same logits whatever the result said; and how often the likeliest colour of those
    that it may have said is right, by way.
    """
    engine, colours = engines.make("768MiB"), COLOURS[: size.colours]
    candidates = [encoded(engines, f" {colour}")[0] for colour in colours]
    right: dict[str, list[bool]] = {"exact": [], "reuse": [], "with the result": []}
    logits = []
    for n, colour in enumerate(colours):
        it = context(engines, size.length, size.deleted, number, colour)
        answered(engine, it.tokens, 1, KEPT)
        edit = without_tool(engines, it, SECRET)
        ways = {
            "exact": (edit.tokens, NOT_KEPT),
            "reuse": (edit.tokens, reusing(edit, "reuse")),
            "with the result": ([*it.tokens, *asked(engines, SECRET)], NOT_KEPT),
        }
        for name, (prompt, cache) in ways.items():
            said = answered(engine, prompt, 1, cache).logits[0]
            right[name].append(int(said[candidates].argmax()) == n)
            if name == "exact":
                logits.append(said.tobytes())
    return len(set(logits)) == 1, {name: fmean(found) for name, found in right.items()}


def forked(engines: ModelEngines, size: Size) -> tuple[list[Check], dict[str, object]]:
    engine = engines.make("512MiB")
    it = context(engines, size.length, size.deleted, number=1000)
    answered(engine, it.tokens, 1, KEPT)
    forks = forks_of(engines, it, size.forks)
    exact = answered(engine, forks[0].tokens, OPEN.tokens, COLD)
    took = {name: Heard() for name in KL_GOALS}
    for name, heard in took.items():
        heard.add(exact, answered(engine, forks[0].tokens, OPEN.tokens, reusing(forks[0], name), exact.tokens), OPEN)
        for fork in forks[1:]:
            heard.ttfts_s.append(answered(engine, fork.tokens, 1, reusing(fork, name)).ttft_s)
    together = [(fork.tokens, reusing(fork, "reuse")) for fork in forks]
    one, all_of_them = most_held_bytes(engine, together[:1]), most_held_bytes(engine, together)
    ttft_s = median(took["reuse"].ttfts_s)
    spread = f"{1e3 * ttft_s:.0f} ms against {1e3 * exact.ttft_s:.0f} ms"
    checks = [
        at_most(f"{size.forks} forks: first token", ttft_s / exact.ttft_s, FORK_TTFT_GOAL, "of a new prefill", spread),
        at_most(f"{size.forks} forks: memory", all_of_them / one, MEMORY_GOAL, "times one", f"{one} bytes for one"),
    ]
    figures: dict[str, object] = {f"fork_{name}_kl": round(fmean(heard.kls), 5) for name, heard in took.items()}
    figures |= {f"fork_{name}_ttft_s": round(median(heard.ttfts_s), 4) for name, heard in took.items()}
    engine.check()
    return checks, figures


def measure(quick: bool) -> Outcome:
    """Full: six contexts of 6,144 tokens, eight colours. Quick: one of 1,536, two colours, three forks."""
    pull(MODEL)
    engines, size = load(MODEL), QUICK if quick else FULL
    deleted = Deleted()
    for number in range(size.contexts):
        deleted.add(engines, context(engines, size.length, size.deleted, number))
        note(f"context {number + 1} of {size.contexts}: a new prefill takes {deleted.new_s[-1]:.2f} s")
    checks = deleted.checks()
    alike, right = guessed(engines, size, number=500)
    checks += [
        at_least("exact mode: the same bits whatever was deleted", float(alike), 1.0, "of 1"),
        at_most("exact mode: what was deleted is guessed", right["exact"], 1 / size.colours, "of the time, chance"),
    ]
    note(f"what was deleted is guessed: {right}")
    of_forks, figures = forked(engines, size)
    worst = {f"{name}_worst_kl": round(max(heard.kls), 4) for name, heard in deleted.ways.items()}
    return worst_of("edits", checks + of_forks, {"quick": quick, "guessed": right} | worst | figures)
