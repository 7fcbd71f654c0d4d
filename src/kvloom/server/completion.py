"""Text completions: what they look like."""

from __future__ import annotations

from collections.abc import Sequence

from kvloom.engine.outputs import CompletionDelta, TokenLogprobs
from kvloom.server.engine_protocol import Tokenizer
from kvloom.server.fields import Json
from kvloom.server.job import Job
from kvloom.server.logprobs import prompt_logprobs, text_logprobs
from kvloom.server.reply import Answer, Reply
from kvloom.server.token_ids import named_text_logprobs


class CompletionReply(Reply):
    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, model: str, job: Job, tokenizer: Tokenizer) -> None:
        super().__init__(model, job)
        self._top = job.params.logprobs
        self._tokenizer = tokenizer
        self._offsets: dict[int, int] = {}
        self._begun: set[int] = set()

    def choice(self, index: int, answer: Answer) -> Json:
        choice: Json = {
            "index": index,
            "text": self._echoed(answer.prompt) + "".join(answer.texts),
            "logprobs": self._scores(index, answer.prompt, answer.logprobs),
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
        }
        if self.job.show_prompt_logprobs:
            choice["prompt_logprobs"] = prompt_logprobs(self._prompt_logprobs.get(answer.prompt, []))
        if self.job.show_token_ids:
            choice |= self.prompt_ids(answer.prompt)
        return choice

    def delta(self, index: int, prompt: int, delta: CompletionDelta) -> list[Json]:
        first = index not in self._offsets
        text = self._echoed(prompt) + delta.text if first else delta.text
        scores = self._scores(index, prompt, delta.logprobs or ())
        self._offsets.setdefault(index, 0)
        if not text and scores is None and delta.finish_reason is None:
            return []  # the token's text is held back until it is certain
        chunk: Json = {"index": index, "text": text, "logprobs": scores, "finish_reason": delta.finish_reason}
        if delta.finish_reason is not None:
            chunk["stop_reason"] = delta.stop_reason
        if self.job.show_token_ids and index not in self._begun:
            self._begun.add(index)
            chunk |= self.prompt_ids(prompt)
        return [chunk]

    def _echoed(self, prompt: int) -> str:
        return self.job.prompts[prompt].text if self.job.echo else ""

    def _scores(self, index: int, prompt: int, answer: Sequence[TokenLogprobs]) -> Json | None:
        """Score the tokens after those already told for this choice; an echoed prompt's come first."""
        if self._top is None:
            return None
        tokens: list[TokenLogprobs | None] = list(answer)
        texts = [next(iter(token.values())).decoded_token for token in answer]
        ids = [next(iter(token)) for token in answer]
        if self.job.echo and index not in self._offsets:
            ids[:0] = self.job.prompts[prompt].token_ids
            tokens[:0] = self._prompt_logprobs.get(prompt, [])
            texts[:0] = [self._tokenizer.token_text(token) for token in self.job.prompts[prompt].token_ids]
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + sum(map(len, texts))
        scores = text_logprobs(tokens, texts, self._top, offset)
        return named_text_logprobs(scores, tokens, ids) if self.job.tokens_as_ids else scores
