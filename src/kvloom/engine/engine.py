"""The engine: ``schedule -> forward -> commit``. Not thread-safe; ``LLM`` and ``AsyncEngine`` each drive one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvloom.attend.base import Attend
from kvloom.config import EngineConfig
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.commit import Commit
from kvloom.engine.facts import KvFacts, facts_of
from kvloom.engine.intake import Intake, Tokenizer
from kvloom.engine.kv import Results
from kvloom.engine.layer_pass import LayerPass
from kvloom.engine.layout import KvLayout
from kvloom.engine.outputs import RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.engine.past import PastContexts
from kvloom.engine.planner import Planner
from kvloom.engine.request import Request, Sequence
from kvloom.engine.scheduler import Scheduler, StepPlan
from kvloom.engine.scheduler.account import Account
from kvloom.engine.scheduler.bands import Bands
from kvloom.engine.scheduler.batch import Batch, form_batch
from kvloom.engine.scheduler.plain import Computed, computed
from kvloom.engine.scheduler.preempt import Preempt
from kvloom.engine.scheduler.prefill_budget import PrefillBudget
from kvloom.engine.scheduler.state import Chunk
from kvloom.engine.stall import Stall
from kvloom.engine.stats import CacheStats, EngineStats, GuardStats, RowCounter, StepWatch
from kvloom.engine.step import Forward
from kvloom.engine.tiers import Tiers
from kvloom.errors import KvloomError, RequestError
from kvloom.memory.arena import Arena
from kvloom.memory.ledger import Ledger
from kvloom.model.base import Model
from kvloom.policy.cost_estimate import CostEstimate

if TYPE_CHECKING:
    from kvloom.engine.grammar.compiled import Grammar

AttendFactory = Callable[[Arena], Attend]


@dataclass(kw_only=True)
class Engine:
    """Serves requests out of one KV arena: a plain object of its parts, which ``factory.make_engine`` chooses.

    Parameters
    ----------
    attend_factory:
        Makes the attend backend over an arena.
    lead:
        Tokens that documents are computed behind when they are computed alone.
    context_limit, max_len:
        Tokens of the longest sequence that the model, and that the KV budget too, allow.
    clock:
        Monotonic seconds: the only clock of this engine and of all that it is made of.
    """

    model: Model
    tokenizer: Tokenizer
    config: EngineConfig
    attend_factory: AttendFactory
    layout: KvLayout
    planner: Planner
    lead: tuple[int, ...]
    context_limit: int
    max_len: int
    ledger: Ledger
    results: Results
    intake: Intake
    scheduler: Scheduler
    account: Account
    preempt: Preempt
    bands: Bands
    prefill_budget: PrefillBudget
    forward: Forward
    commit: Commit
    watch: StepWatch
    clock: Callable[[], float]
    prefill_cost: CostEstimate
    tiers: Tiers
    stall: Stall
    requests: dict[str, Request] = field(default_factory=dict)
    past: PastContexts = field(default_factory=PastContexts)
    step_rows: RowCounter = field(default_factory=RowCounter)
    steps: int = 0
    prompt_tokens: int = 0
    held_bytes: int = 0
    """KV held while the last step ran: what ended in it is given back by now."""

    # -- requests --------------------------------------------------------------------------------------------------

    def submit(
        self,
        request_id: str,
        prompt_ids: list[int],
        params: SamplingParams,
        prompt: str | None = None,
        *,
        client: str = "",
        cache: CacheParams | None = None,
        grammar: Grammar | None = None,
    ) -> None:
        """Queue a request. Raises RequestError when it can never be served; then nothing has changed.

        ``grammar``: of ``params.structured_outputs``, from ``intake.grammars``; None compiles it here.
        Clients get their turns one after another, a client's own requests in order of arrival.
        """
        if request_id in self.requests:
            raise RequestError(f"request id `{request_id}` is in use", param="request_id")
        if not self.requests:
            self.intake.turns.rest()
        request = self.intake.request(request_id, prompt_ids, params, prompt, client, cache or CacheParams(), grammar)
        self.prompt_tokens += len(prompt_ids)
        self.requests[request_id] = request
        self.scheduler.queues.enqueue(request.sequences[0])
        self.wake()

    def abort(self, request_id: str) -> RequestUpdate | None:
        """End a request at once; None when there is no such request (any more)."""
        request = self.requests.pop(request_id, None)
        self.wake()
        return None if request is None else self.commit.end(request)

    @property
    def has_work(self) -> bool:
        """Whether there are requests that are not over."""
        return bool(self.requests)

    @property
    def runnable(self) -> bool:
        """Whether a step would do something. With work, but not runnable: all of it waits for something outside."""
        queues = self.scheduler.queues
        return bool(queues.running or queues.waiting) and self.stall.over

    def wake(self) -> None:
        """What was waited for may be there. May be called from any thread."""
        self.stall.wake()

    def sleep(self, seconds: float) -> None:
        """Wait at most ``seconds`` for somebody to call ``wake``."""
        self.stall.sleep(seconds)

    # -- the step --------------------------------------------------------------------------------------------------

    def step(self) -> list[RequestUpdate]:
        """Compute part of what is missing, for as many requests as the row budget allows."""
        self.watch.start()
        self.stall.step_begins()
        began_s = self.clock()
        plan = self.scheduler.schedule()
        self.held_bytes = max(self.ledger.held_bytes, plan.peak_bytes)
        faults = {sequence.request: error for sequence, error in plan.failed.items()} if plan.failed else {}
        failed = [self._give_up(request, plan, error) for request, error in faults.items()]
        self.watch.lap("schedule")
        known = computed(plan)
        if work := plan.work:
            batch = form_batch(work, self.planner)
            self.watch.lap("plan")
            self._run(batch)
        for sequence, layer_pass in plan.passes.items():
            self.commit.attempt(sequence.request, self._run_pass, sequence, layer_pass)
        if known is not None and (work or plan.passes):
            self._learn(known, plan.streaming_since_s < math.inf, self.clock() - began_s)
        self._notice(plan)
        self.step_rows.add(self.scheduler.step_tokens - plan.rows_left)
        self.steps += 1
        updates = failed + self.commit.updates()
        for update in updates:
            if update.finished:
                request = self.requests.pop(update.request_id)
                if update.error is None:
                    self.past.add(request)
        self.watch.lap("commit")
        return updates

    def _run(self, batch: Batch) -> None:
        """Forward, sample, commit."""
        scored = [n for n, chunk in enumerate(batch.chunks) if chunk.wants_prompt_rows]
        if scored:
            hidden_RC = self.forward.hidden(batch)
            scores = self.forward.scores_after(batch, hidden_RC)
        else:
            scores = self.forward.next_scores(batch)
        self.watch.lap("forward")
        commit = self.commit
        for n in scored:
            sequence = batch.chunks[n].sequence
            if sequence.request.params.prompt_logprobs is not None:
                rows = self.forward.prompt_logits(batch, hidden_RC, n)
                commit.attempt(sequence.request, commit.prompt_scored, sequence, rows)
            if sequence.request.prompt_mean is not None:
                commit.attempt(
                    sequence.request,
                    sequence.request.prompt_mean.take,
                    *self.forward.prompt_states(batch, hidden_RC, n),
                )
        for chunk in batch.chunks:
            commit.attempt(chunk.sequence.request, commit.written, chunk)
        for chunk, next_scores in scores:
            if chunk.shadow is not None:
                chunk.shadow.say(next_scores)
            elif chunk.kv.missing:
                commit.attempt(chunk.sequence.request, commit.continued, chunk.sequence, next_scores)
            else:
                commit.attempt(chunk.sequence.request, commit.sampled, chunk.sequence, next_scores)

    def _run_pass(self, sequence: Sequence, work: LayerPass) -> None:
        """The same for rows that go through some of the layers."""
        layerwise = sequence.layerwise
        assert layerwise is not None
        x_TC = self.forward.layer_pass(work, self.planner)
        self.watch.lap("forward")
        layerwise.took(work, x_TC)
        if layerwise.over is not None:
            spans, last_1C = layerwise.over
            if layerwise.resident:
                sequence.end_layerwise()
            self.commit.written(Chunk(sequence, spans))
            if not sequence.kv.missing:  # of one that begins again, the answer so far is computed next
                self.commit.sampled(sequence, *self.forward.scores_of(last_1C))

    # -- the cache -------------------------------------------------------------------------------------------------

    def reset_cache(self) -> None:
        """Forget all reusable KV, in all tiers. Running requests go on with what they hold."""
        self.ledger.reset()
        self.tiers.clear()
        self.wake()

    def close(self, seconds: float = 10.0) -> None:
        """Write what waits to be written to tiers, for at most so long, and close them. No step may follow."""
        self.tiers.close(seconds)

    def check(self) -> None:
        """Audit the ledger against what all sequences hold. Raises InternalError."""
        sequences = [sequence for request in self.requests.values() for sequence in request.sequences]
        self.results.check()
        self.ledger.check([held for sequence in sequences for held in sequence.holdings()])

    def facts(self) -> KvFacts:
        tiers = tuple(self.tiers.stats())
        root = self.intake.root(CacheParams())
        return facts_of(self.config.cache, self.layout, self.ledger.arena.budget_bytes, root, tiers)

    def stats(self) -> EngineStats:
        queues, ledger = self.scheduler.queues, self.ledger
        ledger.end_pins(self.clock())
        cache = CacheStats(
            budget_bytes=ledger.arena.budget_bytes,
            used_bytes=ledger.arena.used_bytes,
            held_bytes=ledger.held_bytes,
            cached_bytes=ledger.cached_bytes,
            metadata_bytes=ledger.arena.metadata_bytes,
            held_pages=ledger.held_pages,
            cached_pages=ledger.cached_pages,
            hit_tokens=self.account.hit_tokens,
            miss_tokens=self.account.miss_tokens,
            lossy_tokens=self.account.lossy_tokens,
            evicted_pages=ledger.evicted_pages,
            misses_by_why={why.value: tokens for why, tokens in self.account.misses_by_why.items()},
            hit_tokens_by_tier=dict(self.account.hit_tokens_by_tier),
            tiers=self.tiers.stats(),
            pinned_bytes=ledger.pins.bytes,
            pins_refused_bytes=ledger.pins.refused_bytes,
            pins_broken_bytes=ledger.pins.broken_bytes,
        )
        return EngineStats(
            running=len(queues.running),
            waiting=len(queues.waiting),
            steps=self.steps,
            prompt_tokens=self.prompt_tokens,
            generated_tokens=self.commit.generated_tokens,
            computed_tokens=self.commit.computed_tokens,
            preemptions=self.preempt.preemptions,
            squeezed=self.preempt.squeeze.count,
            guard=GuardStats(self.commit.guard_checks, self.commit.guard_restored, self.preempt.shadows_lost),
            finished=dict(self.commit.finished),
            cache=cache,
            seconds=self.watch.seconds(),
            prefill_cost=self.prefill_cost.cost,
            begun_by_bands=self.bands.begun,
            fusion=dict(self.commit.fusion),
            deferred=min(queues.deferred, len(queues.waiting)),
            step_rows=self.step_rows.rows(),
        )

    # -- inside ----------------------------------------------------------------------------------------------------

    def _notice(self, plan: StepPlan) -> None:
        """Whether this step got anywhere: with an empty plan it may still have moved sequences or pages."""
        if plan.chunks or plan.passes or plan.shadows or plan.failed or plan.compressing:
            self.stall.step_worked()
        else:
            queues, ledger = self.scheduler.queues, self.ledger
            self.stall.step_idled((list(queues.running), list(queues.waiting), ledger.changes, ledger.held_bytes))

    def _learn(self, known: Computed, streaming: bool, seconds: float) -> None:
        """From what a step took: what others may compute beside answers, or what prompts cost by themselves."""
        if streaming:
            self.prefill_budget.took(known.streams, known.new, known.positions, seconds, known.plain)
        elif known.plain and not known.streams:
            self.prefill_cost.took(known.new, known.positions, seconds)

    def _give_up(self, request: Request, plan: StepPlan, error: KvloomError) -> RequestUpdate:
        """End a request one of whose sequences can never go on; none of the others runs in this step either."""
        for sequence in request.sequences:
            plan.discard(sequence)
        return self.commit.end(request, error)
