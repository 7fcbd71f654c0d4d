"""Commit: what a step computed becomes tokens, text, published pages and updates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import ParamSpec

from kvloom.engine.intake import Intake
from kvloom.engine.outputs import CompletionDelta, FinishReason, RequestUpdate, TokenLogprobs
from kvloom.engine.request import Request, Sequence, Status
from kvloom.engine.sampling import Logits, NextScores, Sampler, token_logprobs
from kvloom.engine.scheduler.state import Chunk, Queues
from kvloom.engine.shadow import Shadow
from kvloom.engine.stats import FusionStats, StepWatch
from kvloom.errors import InternalError, KvloomError, NumericsError, RequestError

logger = logging.getLogger(__name__)

P = ParamSpec("P")


@dataclass
class Commit:
    """Ends a step. ``intake`` makes further continuations, and knows the tokenizer, the limits and the clock."""

    queues: Queues
    intake: Intake
    max_seqs: int
    watch: StepWatch
    generated_tokens: int = 0
    computed_tokens: int = 0
    guard_checks: int = 0
    guard_restored: int = 0
    finished: dict[str, int] = field(default_factory=dict)
    fusion: dict[str, FusionStats] = field(default_factory=dict)
    _deltas: dict[str, tuple[Request, list[CompletionDelta]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = self.intake.clock
        self.eos, self.token_text = self.intake.tokenizer.eos_token_ids, self.intake.tokenizer.token_text

    def attempt(self, request: Request, act: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do something for one request: what it raises ends this request, and no other."""
        if request.ended:  # another of its sequences failed in this step
            return
        try:
            act(*args, **kwargs)
        except Exception as raised:
            self._fail(request, raised)

    def written(self, chunk: Chunk) -> None:
        """The chunk's KV is in its pages. All tokens count as accepted, and what became full is published."""
        sequence, rows = chunk.sequence, len(chunk.spans)
        kv = chunk.kv
        kv.written(chunk.spans)
        kv.publish(len(kv.tokens))
        sequence.request.metrics.computed_tokens += rows
        self.computed_tokens += rows

    def prompt_scored(self, sequence: Sequence, scored: Iterable[tuple[int, Logits]]) -> None:
        """Record log probabilities of the prompt: logits at position p speak of the token at p + 1."""
        request = sequence.request
        top = request.params.prompt_logprobs
        assert top is not None
        if request.prompt_logprobs is None:
            request.prompt_logprobs = [None] * sequence.num_prompt
        for position, logits_V in scored:
            if position + 1 < sequence.num_prompt:
                token = request.prompt_token_ids[position + 1]
                request.prompt_logprobs[position + 1] = token_logprobs(logits_V, token, top, self.token_text)

    def sampled(self, sequence: Sequence, scores: NextScores) -> None:
        """Draw the next token; at the end of the prompt, fork the other continuations first."""
        request = sequence.request
        if request.max_tokens == 0:
            self._end_with_prompt(sequence)
            return
        scores.check()
        if sequence.shadow is not None:
            scores = self._guarded(sequence, sequence.shadow, scores)
        for index in range(len(request.sequences), request.params.n):
            self._fork(sequence, index, scores)
        self._extend(sequence, scores)

    def continued(self, sequence: Sequence, scores: NextScores) -> None:
        """Tell a sequence's watch how the model goes on after its context."""
        scores.check()
        sequence.kv.hear(scores.argmax)

    def end(self, request: Request, error: KvloomError | None = None) -> RequestUpdate:
        """End a request from outside (abort, or ``error``); returns its last update."""
        self._end(request, error, self._let_finish)
        return self._update(request)

    def updates(self) -> list[RequestUpdate]:
        """Everything that changed since the last call, one update per request."""
        requests = [request for request, _ in self._deltas.values()]
        return [self._update(request) for request in requests]

    # -- inside ----------------------------------------------------------------------------------------------------

    def _fail(self, request: Request, raised: Exception) -> None:
        """Something that was done for this request did not work: its state is not to be trusted any more."""
        if isinstance(raised, NumericsError | RequestError):
            error: KvloomError = raised
        else:
            logger.error("request %s failed", request.id, exc_info=raised)
            error = InternalError(f"the request failed inside the engine: {type(raised).__name__}: {raised}")
            error.__cause__ = raised
        self._end(request, error, self._abandon)

    def _end(self, request: Request, error: KvloomError | None, close: Callable[[Sequence], str]) -> None:
        """``close`` gives back what a sequence holds, and returns the rest of its text."""
        reason: FinishReason = "abort" if error is None else "error"
        deltas = self._deltas_of(request)  # an update goes out even if all sequences were over
        for sequence in request.sequences:
            if sequence.status is not Status.FINISHED:
                sequence.finish_reason, sequence.stop_reason = reason, None
                deltas.append(CompletionDelta(sequence.index, close(sequence), (), None, reason))
        for index in range(len(request.sequences), request.params.n):  # not forked yet
            deltas.append(CompletionDelta(index, "", (), None, reason))
        request.ended, request.error = True, error

    def _let_finish(self, sequence: Sequence) -> str:
        try:
            self._finish(sequence)
            return sequence.text.flush()
        except Exception:
            logger.exception("continuation %s could not be ended in order", sequence.owner)
            return self._abandon(sequence)

    def _abandon(self, sequence: Sequence) -> str:
        if sequence.status is not Status.FINISHED:
            self.queues.discard(sequence)
            sequence.abandon()
            self._over(sequence)
        return ""

    def _fork(self, parent: Sequence, index: int, scores: NextScores) -> None:
        """Another continuation draws its first token. If no place is free it waits: the index knows the prompt."""
        child = self.intake.sequence(parent.request, index)
        parent.request.sequences.append(child)
        child.started, joins = True, len(self.queues.running) < self.max_seqs
        if joins:
            parent.kv.fork(child.kv)
        self.queues.start(child)
        self._extend(child, scores)
        if not joins and child.status is Status.RUNNING:
            self.queues.remove(child)
            self.queues.enqueue(child)

    def _end_with_prompt(self, sequence: Sequence) -> None:
        """Nothing but the prompt was asked for: all continuations are empty."""
        request, scores = sequence.request, None if sequence.request.params.logprobs is None else ()
        if request.prompt_mean is not None:
            request.embedding = request.prompt_mean.unit()
        sequence.finish_reason = "length"
        self._finish(sequence)
        text = sequence.text.flush()
        for index in range(request.params.n):
            self._deltas_of(request).append(CompletionDelta(index, text, (), scores, "length"))
        request.ended = True

    def _extend(self, sequence: Sequence, scores: NextScores) -> None:
        params = sequence.request.params
        token = self._draw(sequence.sampler, scores)
        sequence.kv.append(token)
        self.generated_tokens += 1
        self._time(sequence)
        logprobs: tuple[TokenLogprobs, ...] | None = None
        if params.logprobs is not None:
            logprobs = (token_logprobs(scores.logits_V, token, params.logprobs, self.token_text),)
        text = self._release_text(sequence, token)
        self._note(
            sequence,
            CompletionDelta(sequence.index, text, (token,), logprobs, sequence.finish_reason, sequence.stop_reason),
        )
        if sequence.finish_reason is not None:
            self._finish(sequence)

    def _guarded(self, sequence: Sequence, shadow: Shadow, scores: NextScores) -> NextScores:
        """What the next token is drawn from: exact KV's scores if the answer has drifted, and from now on."""
        exact, metrics = shadow.said, sequence.request.metrics
        if exact is None:
            return scores
        exact.check()
        assert metrics.guard is not None
        report = shadow.compared(exact, scores, metrics.guard)
        self.guard_checks += 1
        if report.mean_kl > shadow.guard.drift:
            sequence.restore()
            self.guard_restored += 1
            report, scores = replace(report, restored_at=sequence.num_generated), exact
        metrics.guard = report
        return scores

    def _draw(self, sampler: Sampler, scores: NextScores) -> int:
        """The next token. It is timed unless the forward pass has found it: looking at the clock takes longer then."""
        if sampler.takes_argmax:
            return sampler.draw(scores.logits_V, scores.argmax)
        self.watch.lap("commit")
        token = sampler.draw(scores.logits_V, scores.argmax)
        self.watch.lap("sample")
        return token

    def _release_text(self, sequence: Sequence, token: int) -> str:
        """Text that may go out now; sets ``finish_reason`` when ``token`` ends the sequence."""
        params = sequence.request.params
        by_eos = token in self.eos and not params.ignore_eos
        if by_eos or token in params.stop_tokens:
            sequence.finish_reason, sequence.stop_reason = "stop", None if by_eos else token
            return (sequence.text.push(token) if params.include_stop_str_in_output else "") + sequence.text.flush()
        text = sequence.text.push(token)
        if sequence.text.stopped_by is not None:
            sequence.finish_reason, sequence.stop_reason = "stop", sequence.text.stopped_by
        elif sequence.sampler.over:
            sequence.finish_reason = "stop"
            text += sequence.text.flush()
        elif sequence.num_generated >= sequence.request.max_tokens:
            sequence.finish_reason = "length"
            text += sequence.text.flush()
        return text

    def _finish(self, sequence: Sequence) -> None:
        self.queues.remove(sequence)
        if sequence.index == 0:
            sequence.request.metrics.kv_bytes = sequence.kv.held_bytes
        sequence.release()
        self._over(sequence)

    def _over(self, sequence: Sequence) -> None:
        sequence.status = Status.FINISHED
        sequence.request.metrics.answer_tokens[sequence.index] = sequence.num_generated
        reason = sequence.finish_reason or "abort"
        self.finished[reason] = self.finished.get(reason, 0) + 1

    def _time(self, sequence: Sequence) -> None:
        metrics, elapsed = sequence.request.metrics, self.clock() - sequence.request.submitted_s
        if metrics.ttft_s is None:
            metrics.ttft_s = elapsed
        if sequence.index == 0:
            metrics.token_times_s.append(elapsed)

    def _note(self, sequence: Sequence, delta: CompletionDelta) -> None:
        self._deltas_of(sequence.request).append(delta)

    def _deltas_of(self, request: Request) -> list[CompletionDelta]:
        return self._deltas.setdefault(request.id, (request, []))[1]

    def _update(self, request: Request) -> RequestUpdate:
        _, deltas = self._deltas.pop(request.id, (request, []))
        finished = request.finished
        if finished:
            request.metrics.total_s = self.clock() - request.submitted_s
            if (fused := request.metrics.fused) is not None:
                self.fusion[fused.names] = self.fusion.get(fused.names, FusionStats()).and_also(fused)
        return RequestUpdate(
            request.id,
            request.prompt_token_ids,
            tuple(deltas),
            request.metrics,
            request.prompt_logprobs,
            finished=finished,
            error=request.error,
            embedding=request.embedding if finished else None,
        )
