"""Replies of the chat completions endpoint."""

from __future__ import annotations

from collections.abc import Sequence

from kvloom.engine.outputs import CompletionDelta, TokenLogprobs
from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.logprobs import chat_logprobs, prompt_logprobs
from kvloom.server.dialect.reply import Answer, Reply
from kvloom.server.dialect.token_ids import named_chat_logprobs
from kvloom.server.engine_protocol import Tokenizer
from kvloom.server.job import Job


class ChatReply(Reply):
    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, model: str, job: Job, tokenizer: Tokenizer) -> None:
        super().__init__(model, job)
        self._top = job.params.logprobs
        self._bytes_of = tokenizer.token_bytes
        self._begun: set[int] = set()

    def whole(self) -> Json:
        document = super().whole() | self.opening()
        if self.job.show_prompt_logprobs:
            document["prompt_logprobs"] = prompt_logprobs(self._prompt_logprobs.get(0, []))
        return document

    def choice(self, index: int, answer: Answer) -> Json:
        return {
            "index": index,
            "message": {"role": "assistant", "content": self._echoed() + "".join(answer.texts), "refusal": None},
            "logprobs": None if self._top is None else self._scores(answer.logprobs, self._top),
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
        }

    def delta(self, index: int, prompt: int, delta: CompletionDelta) -> list[Json]:
        chunks: list[Json] = []
        if index not in self._begun:
            self._begun.add(index)
            chunks.append(_chunk(index, {"role": "assistant", "content": self._echoed()}))
        scored = self._top is not None and delta.logprobs
        if not delta.text and not scored and delta.finish_reason is None:
            return chunks  # the token's text is held back until it is certain
        chunk = _chunk(index, {"content": delta.text} if delta.text or scored else {})
        if self._top is not None and delta.logprobs:
            chunk["logprobs"] = self._scores(delta.logprobs, self._top)
        if delta.finish_reason is not None:
            chunk["finish_reason"] = delta.finish_reason
            chunk["stop_reason"] = delta.stop_reason
        return [*chunks, chunk]

    def opening(self) -> Json:
        return self.prompt_ids(0) if self.job.show_token_ids else {}

    def _scores(self, tokens: Sequence[TokenLogprobs], top: int) -> Json:
        scores = chat_logprobs(tokens, top, self._bytes_of)
        return named_chat_logprobs(scores, tokens) if self.job.tokens_as_ids else scores

    def _echoed(self) -> str:
        return self.job.prompts[0].text if self.job.echo else ""


def _chunk(index: int, delta: Json) -> Json:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
