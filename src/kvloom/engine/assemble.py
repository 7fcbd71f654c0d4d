"""From updates to a RequestOutput that grows."""

from __future__ import annotations

from kvloom.engine.outputs import CompletionOutput, RequestOutput, RequestUpdate


class Assembly:
    """Adds up the updates of one request. ``output`` is live: it grows with every ``add``."""

    def __init__(self, request_id: str, prompt: str | None, num_samples: int) -> None:
        self._outputs = [CompletionOutput(index) for index in range(num_samples)]
        self._head = request_id, prompt

    def add(self, update: RequestUpdate) -> RequestOutput:
        for delta in update.deltas:
            into = self._outputs[delta.index]
            into.text += delta.text
            into.token_ids += delta.token_ids
            if delta.logprobs is not None:
                into.logprobs = (into.logprobs or []) + list(delta.logprobs)
            into.finish_reason, into.stop_reason = delta.finish_reason, delta.stop_reason
        request_id, prompt = self._head
        return RequestOutput(
            request_id=request_id,
            prompt=prompt,
            prompt_token_ids=update.prompt_token_ids,
            outputs=self._outputs,
            metrics=update.metrics,
            prompt_logprobs=update.prompt_logprobs,
            finished=update.finished,
            error=update.error,
            embedding=update.embedding,
        )
