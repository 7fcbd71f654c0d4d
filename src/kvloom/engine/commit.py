"""Commit: what a step computed becomes tokens, text, published pages and updates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kvloom.engine.outputs import CompletionDelta, RequestUpdate, TokenLogprobs
from kvloom.engine.pages import Pages
from kvloom.engine.request import Request, Sequence, Status
from kvloom.engine.sampling import Logits, NextScores, token_logprobs
from kvloom.engine.scheduler.state import Chunk, Queues
from kvloom.engine.stats import StepWatch
from kvloom.segment import Span, SpanSet


@dataclass
class Commit:
    """Ends a step. ``max_len``: positions a sequence may have; ``eos``: tokens that end a text; ``clock``: seconds."""

    pages: Pages
    queues: Queues
    eos: frozenset[int]
    max_len: int
    token_text: Callable[[int], str]
    clock: Callable[[], float]
    new_child: Callable[[Request, int], Sequence]
    max_seqs: int
    watch: StepWatch
    generated_tokens: int = 0
    computed_tokens: int = 0
    finished: dict[str, int] = field(default_factory=dict)
    _deltas: dict[str, tuple[Request, list[CompletionDelta]]] = field(default_factory=dict)

    def written(self, chunk: Chunk) -> None:
        """The chunk's KV is in its pages: close the gaps and publish what became full."""
        sequence, rows = chunk.sequence, len(chunk.spans)
        sequence.gaps = sequence.gaps - chunk.spans
        self.pages.written(sequence, chunk.spans)
        sequence.request.metrics.computed_tokens += rows
        self.computed_tokens += rows
        first = sequence.gaps.spans[0].start if sequence.gaps else len(sequence.tokens)
        self.pages.trim_windows(sequence, first)

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
        for index in range(len(request.sequences), request.params.n):
            self._fork(sequence, index, scores)
        self._extend(sequence, scores)

    def end(self, request: Request, error: str | None = None) -> RequestUpdate:
        """End a request from outside (abort, or ``error``); returns its last update."""
        for sequence in request.sequences:
            if sequence.status is not Status.FINISHED:
                sequence.finish_reason, sequence.stop_reason = "abort", None
                self._finish(sequence)
                self._note(sequence, CompletionDelta(sequence.index, sequence.text.flush(), (), None, "abort"))
        for index in range(len(request.sequences), request.params.n):  # not forked yet
            self._deltas_of(request).append(CompletionDelta(index, "", (), None, "abort"))
        request.ended = True
        return self._update(request, error)

    def updates(self) -> list[RequestUpdate]:
        """Everything that changed since the last call, one update per request."""
        requests = [request for request, _ in self._deltas.values()]
        return [self._update(request) for request in requests]

    # -- inside ----------------------------------------------------------------------------------------------------

    def _fork(self, parent: Sequence, index: int, scores: NextScores) -> None:
        """Another continuation draws its first token. If no place is free it waits: the index knows the prompt."""
        child = self.new_child(parent.request, index)
        parent.request.sequences.append(child)
        child.started, joins = True, len(self.queues.running) < self.max_seqs
        if joins:
            self.pages.share(parent, child)
        self.queues.start(child)
        self._extend(child, scores)
        if not joins and child.status is Status.RUNNING:
            self.queues.remove(child)
            self.queues.enqueue(child)

    def _extend(self, sequence: Sequence, scores: NextScores) -> None:
        params = sequence.request.params
        self.watch.lap("commit")
        token = sequence.sampler.draw(scores.logits_V, scores.likeliest)
        self.watch.lap("sample")
        sequence.tokens.append(token)
        sequence.gaps = SpanSet((Span(len(sequence.tokens) - 1, len(sequence.tokens)),))
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
        elif sequence.num_generated >= sequence.request.max_tokens or len(sequence.tokens) >= self.max_len:
            sequence.finish_reason = "length"
            text += sequence.text.flush()
        return text

    def _finish(self, sequence: Sequence) -> None:
        self.queues.remove(sequence)
        if sequence.index == 0:
            sequence.request.metrics.kv_bytes = self.pages.held_bytes(sequence)
        self.pages.retire(sequence)
        sequence.status = Status.FINISHED
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

    def _update(self, request: Request, error: str | None = None) -> RequestUpdate:
        _, deltas = self._deltas.pop(request.id, (request, []))
        finished = request.finished or error is not None
        if finished:
            request.metrics.total_s = self.clock() - request.submitted_s
        return RequestUpdate(
            request.id,
            request.prompt_token_ids,
            tuple(deltas),
            request.metrics,
            request.prompt_logprobs,
            finished=finished,
            error=error,
        )
