"""The engine: ``schedule -> forward -> commit``. Not thread-safe; ``LLM`` and ``AsyncEngine`` each drive one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from kvloom.attend.base import Attend
from kvloom.config import EngineConfig
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.commit import Commit
from kvloom.engine.kv import PageNames, SequenceKv
from kvloom.engine.layout import KvLayout
from kvloom.engine.outputs import RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.engine.request import Request, Sequence
from kvloom.engine.sampling import Sampler
from kvloom.engine.scheduler import Scheduler, StepPlan
from kvloom.engine.scheduler.admit import Admit
from kvloom.engine.scheduler.batch import Batch, form_batch
from kvloom.engine.scheduler.chunk import ChunkRunning
from kvloom.engine.scheduler.preempt import Preempt
from kvloom.engine.scheduler.prefill_budget import PrefillBudget
from kvloom.engine.scheduler.reserve import Reserve
from kvloom.engine.scheduler.turns import Turns
from kvloom.engine.stall import Stall
from kvloom.engine.stats import CacheStats, EngineStats, StepWatch
from kvloom.engine.step import Forward
from kvloom.engine.text import TextState, TokenStream
from kvloom.errors import InternalError, ParamsError, PromptTooLong, RequestError, context_overflow
from kvloom.memory.arena import Arena
from kvloom.memory.index import Index
from kvloom.memory.keys import root_key
from kvloom.memory.ledger import Ledger
from kvloom.model.base import Model
from kvloom.policy.retention.base import Retention


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer."""

    @property
    def eos_token_ids(self) -> frozenset[int]: ...
    def token_text(self, token_id: int) -> str: ...
    def stream(self, skip_special_tokens: bool, after: list[int]) -> TokenStream:
        """Decode what continues ``after``."""
        ...


AttendFactory = Callable[[Arena], Attend]

_NO_ROOM = "KV memory is exhausted: this request does not fit although it is alone"


@dataclass
class Engine:
    """Serves requests out of one KV arena.

    Parameters
    ----------
    attend_factory:
        Makes the attend backend over the engine's arena.
    retention:
        Which cached pages go first.
    clock:
        Monotonic seconds: the only clock of this engine and of all that it is made of.
    """

    model: Model
    tokenizer: Tokenizer
    config: EngineConfig
    attend_factory: AttendFactory
    retention: Retention
    clock: Callable[[], float] = time.monotonic
    requests: dict[str, Request] = field(default_factory=dict)
    steps: int = 0
    prompt_tokens: int = 0
    held_bytes: int = 0
    """KV held while the last step ran: what ended in it is given back by now."""

    def __post_init__(self) -> None:
        scheduling = self.config.scheduler
        self.layout = KvLayout(self.model.kv_map, self.config.cache, scheduling.step_tokens)
        self.context_limit = min(self.model.context_length, self.config.max_model_len or self.model.context_length)
        self.budget_bytes = self.layout.budget_bytes(self.context_limit)
        self.max_len = self.layout.capacity_tokens(self.budget_bytes, self.context_limit)
        arena = Arena(self.budget_bytes, self.layout.slab_bytes)
        ghosts = sum(self.budget_bytes // fmt.page_bytes for fmt in self.layout.formats)
        index = Index(len(self.layout.formats), max_ghosts=max(256, 2 * ghosts))
        self.ledger = Ledger(arena, index, self.retention, clock=self.clock)
        self.turns, reserve = Turns(), Reserve(self.ledger, self.layout)
        self.admit = Admit(self.ledger, reserve, scheduling.max_seqs, self.clock, self.turns)
        self.preempt = Preempt(self.ledger)
        self.prefill_budget = PrefillBudget(scheduling.max_decode_slowdown)
        stages = (ChunkRunning(self.prefill_budget), self.preempt, self.admit)
        self.scheduler = Scheduler(stages, scheduling.step_tokens)
        self.forward = Forward(self.model, self.attend_factory(arena))
        self.watch = StepWatch(self.clock)
        self.commit = Commit(
            self.scheduler.queues,
            self.tokenizer.eos_token_ids,
            self.max_len,
            self.tokenizer.token_text,
            self.clock,
            self._new_sequence,
            scheduling.max_seqs,
            self.watch,
        )
        self._arrivals = 0
        self._stall = Stall()

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
    ) -> None:
        """Queue a request. Raises RequestError when it can never be served; then nothing has changed.

        Clients get their turns one after another, a client's own requests in order of arrival.
        """
        self._validate(request_id, prompt_ids, params)
        cache = cache or CacheParams()
        root = root_key(weights=self.model.weights_id, formats=self.layout.identity, salt=cache.salt)
        room = self.max_len - len(prompt_ids)
        if not self.requests:
            self.turns.rest()
        request = Request(
            id=request_id,
            prompt=prompt,
            prompt_token_ids=prompt_ids,
            params=params,
            root=root,
            arrival=self._arrivals,
            turn=self.turns.take(client, params.n),
            submitted_s=self.clock(),
            max_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
            cache=cache,
        )
        request.sequences.append(self._new_sequence(request, 0))
        self._arrivals += 1
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
        return bool(queues.running or queues.waiting) and self._stall.over

    def wake(self) -> None:
        """What was waited for may be there. May be called from any thread."""
        self._stall.wake()

    def sleep(self, seconds: float) -> None:
        """Wait at most ``seconds`` for somebody to call ``wake``."""
        self._stall.sleep(seconds)

    # -- the step --------------------------------------------------------------------------------------------------

    def step(self) -> list[RequestUpdate]:
        """Compute part of what is missing, for as many requests as the row budget allows."""
        self.watch.start()
        self._stall.step_begins()
        began_s = self.clock()
        plan = self.scheduler.schedule()
        self.held_bytes = self.ledger.held_bytes
        failed = [self._give_up(request, plan) for request in dict.fromkeys(s.request for s in plan.failed)]
        self.watch.lap("schedule")
        if plan.chunks:
            batch = form_batch(list(plan.chunks.values()), self.layout.layers)
            self.watch.lap("plan")
            self._run(batch)
            self._learn(plan, self.clock() - began_s)
        self._notice(plan)
        self.steps += 1
        updates = failed + self.commit.updates()
        for update in updates:
            if update.finished:
                del self.requests[update.request_id]
        self.watch.lap("commit")
        return updates

    def _run(self, batch: Batch) -> None:
        """Forward, sample, commit."""
        scored = [n for n, chunk in enumerate(batch.chunks) if chunk.sequence.wants_prompt_scores]
        if scored:
            hidden_RC = self.forward.hidden(batch)
            scores = self.forward.scores_after(batch, hidden_RC)
        else:
            scores = self.forward.next_scores(batch)
        self.watch.lap("forward")
        commit = self.commit
        for n in scored:
            sequence, rows = batch.chunks[n].sequence, self.forward.prompt_logits(batch, hidden_RC, n)
            commit.attempt(sequence.request, commit.prompt_scored, sequence, rows)
        for chunk in batch.chunks:
            commit.attempt(chunk.sequence.request, commit.written, chunk)
        for chunk, next_scores in scores:
            commit.attempt(chunk.sequence.request, commit.sampled, chunk.sequence, next_scores)

    # -- the cache -------------------------------------------------------------------------------------------------

    def reset_cache(self) -> None:
        """Forget all reusable KV. Running requests go on with what they hold."""
        self.ledger.reset()
        self.wake()

    def check(self) -> None:
        """Audit the ledger against what all sequences hold. Raises InternalError."""
        sequences = [sequence for request in self.requests.values() for sequence in request.sequences]
        self.ledger.check([held for sequence in sequences for held in sequence.kv.holdings()])

    def stats(self) -> EngineStats:
        queues, ledger = self.scheduler.queues, self.ledger
        cache = CacheStats(
            budget_bytes=ledger.arena.budget_bytes,
            used_bytes=ledger.arena.used_bytes,
            held_bytes=ledger.held_bytes,
            cached_bytes=ledger.cached_bytes,
            metadata_bytes=ledger.arena.metadata_bytes,
            held_pages=ledger.held_pages,
            cached_pages=ledger.cached_pages,
            hit_tokens=self.admit.hit_tokens,
            miss_tokens=self.admit.miss_tokens,
            evicted_pages=ledger.evicted_pages,
            misses_by_why=dict(self.admit.misses_by_why),
        )
        return EngineStats(
            running=len(queues.running),
            waiting=len(queues.waiting),
            steps=self.steps,
            prompt_tokens=self.prompt_tokens,
            generated_tokens=self.commit.generated_tokens,
            computed_tokens=self.commit.computed_tokens,
            preemptions=self.preempt.preemptions,
            finished=dict(self.commit.finished),
            cache=cache,
            seconds=self.watch.seconds(),
        )

    # -- inside ----------------------------------------------------------------------------------------------------

    def _validate(self, request_id: str, prompt_ids: list[int], params: SamplingParams) -> None:
        if request_id in self.requests:
            raise RequestError(f"request id `{request_id}` is in use", param="request_id")
        if not prompt_ids:
            raise RequestError("the prompt is empty: at least one token is needed", param="prompt")
        vocab = self.model.vocab_size
        if any(type(token) is not int for token in prompt_ids):
            raise RequestError("token ids must be whole numbers", param="prompt")
        bad = next((t for t in prompt_ids if not 0 <= t < vocab), None)
        if bad is not None:
            raise RequestError(f"token id {bad} is outside the vocabulary of {vocab}", param="prompt")
        for name, tokens in (("logit_bias", params.biases), ("stop_token_ids", params.stop_tokens)):
            bad = next((t for t in tokens if t >= vocab), None)
            if bad is not None:
                raise ParamsError(f"{name}: token id {bad} is outside the vocabulary of {vocab}", param=name)
        whole = len(prompt_ids) + (params.max_tokens != 0)  # with a token of the answer, if there is to be one
        if whole > self.context_limit:
            detail = f"However, the prompt has {len(prompt_ids)} tokens, and the answer needs at least one"
            words = context_overflow(self.context_limit, detail)
            raise PromptTooLong(words, hint="shorten the prompt", param="prompt")
        if whole > self.max_len:
            needed = self.layout.bytes_for(whole)
            detail = (
                f"However, the prompt has {len(prompt_ids)} tokens and needs {needed} bytes of KV memory; the budget "
                f"has {self.budget_bytes} bytes"
            )
            words = context_overflow(self.max_len, detail)
            raise PromptTooLong(words, hint="raise kv_bytes or shorten the prompt", param="prompt")

    def _new_sequence(self, request: Request, index: int) -> Sequence:
        params = request.params
        seeds = (self.config.seed, request.arrival) if params.seed is None else (params.seed,)
        return Sequence(
            request=request,
            index=index,
            kv=SequenceKv(
                self.ledger,
                f"{request.id}/{index}",
                PageNames(request.root, list(request.prompt_token_ids)),
                self.layout.new_tables(),
                request.cache,
            ),
            sampler=Sampler.start(params, request.prompt_token_ids, (*seeds, index)),
            text=TextState(
                self.tokenizer.stream(params.skip_special_tokens, request.prompt_token_ids),
                params.stop_strings,
                params.include_stop_str_in_output,
            ),
        )

    def _notice(self, plan: StepPlan) -> None:
        """Whether this step got anywhere: with an empty plan it may still have moved sequences or pages."""
        if plan.chunks or plan.failed:
            self._stall.step_worked()
        else:
            queues, ledger = self.scheduler.queues, self.ledger
            self._stall.step_idled((list(queues.running), list(queues.waiting), ledger.changes, ledger.held_bytes))

    def _learn(self, plan: StepPlan, seconds: float) -> None:
        """Tell the prefill budget what the step took, if anybody streams."""
        if plan.streaming_since_s < math.inf:
            prompts = [chunk for chunk in plan.chunks.values() if len(chunk.spans) > 1]
            rows = sum(len(chunk.spans) for chunk in prompts)
            first = prompts[0].sequence.owner if prompts else ""
            self.prefill_budget.took(len(plan.chunks) - len(prompts), rows, first, seconds)

    def _give_up(self, request: Request, plan: StepPlan) -> RequestUpdate:
        """End a request one of whose sequences has no room; none of the others runs in this step either."""
        for sequence in request.sequences:
            plan.discard(sequence)
        return self.commit.end(request, InternalError(_NO_ROOM))
