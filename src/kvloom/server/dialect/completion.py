"""Replies of the text completions endpoint."""

from __future__ import annotations

from kvloom.engine.outputs import CompletionDelta
from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.logprobs import ChoiceScores, prompt_logprobs, text_logprobs
from kvloom.server.dialect.places import Places, prompt_places
from kvloom.server.dialect.reply import Answer, Reply
from kvloom.server.dialect.token_ids import token_id_bytes
from kvloom.server.engine_protocol import Tokenizer
from kvloom.server.job import Job


class CompletionReply(Reply):
    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, model: str, job: Job, tokenizer: Tokenizer) -> None:
        super().__init__(model, job)
        self._top = job.params.logprobs
        self._tokenizer = tokenizer
        self._spelling = token_id_bytes if job.tokens_as_ids else tokenizer.token_bytes
        self._begun: set[int] = set()
        self._scores: dict[int, ChoiceScores] = {}

    def choice(self, index: int, answer: Answer) -> Json:
        text = self._echoed(answer.prompt) + "".join(answer.texts)
        scores: Json | None = None
        if self._top is not None:
            choice_scores = self._new_scores(answer.prompt)
            choice_scores.add(answer.logprobs)
            scores = text_logprobs(*choice_scores.settled(text, over=True), self._top, self._spelling)
        choice: Json = {
            "index": index,
            "text": text,
            "logprobs": scores,
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
        }
        if self.job.show_prompt_logprobs:
            choice["prompt_logprobs"] = prompt_logprobs(self._prompt_logprobs.get(answer.prompt, []))
        if self.job.show_token_ids:
            choice |= self.prompt_ids(answer.prompt)
        return choice

    def delta(self, index: int, prompt: int, delta: CompletionDelta) -> list[Json]:
        first = index not in self._begun
        text = self._echoed(prompt) + delta.text if first else delta.text
        scores = None if self._top is None else self._scores_of(index, prompt, text, delta, self._top)
        if not text and scores is None and delta.finish_reason is None:
            return []  # the token's text is held back until it is certain
        self._begun.add(index)
        chunk: Json = {"index": index, "text": text, "logprobs": scores, "finish_reason": delta.finish_reason}
        if delta.finish_reason is not None:
            chunk["stop_reason"] = delta.stop_reason
        if self.job.show_token_ids and first:
            chunk |= self.prompt_ids(prompt)
        return [chunk]

    def _echoed(self, prompt: int) -> str:
        return self.job.prompts[prompt].text if self.job.echo else ""

    def _scores_of(self, index: int, prompt: int, text: str, delta: CompletionDelta, top: int) -> Json | None:
        """The scores that can be sent with ``text``."""
        if index not in self._scores:
            self._scores[index] = self._new_scores(prompt)
        choice_scores = self._scores[index]
        choice_scores.add(delta.logprobs or ())
        tokens, offsets = choice_scores.settled(text, over=delta.finish_reason is not None)
        return text_logprobs(tokens, offsets, top, self._spelling) if tokens else None

    def _new_scores(self, prompt: int) -> ChoiceScores:
        asked, text = self.job.prompts[prompt], self._echoed(prompt)
        stream = self._tokenizer.stream(self.job.params.skip_special_tokens, asked.token_ids)
        scores = ChoiceScores(Places(stream, len(text)))
        if self.job.echo:
            known = self._prompt_logprobs.get(prompt, [None] * len(asked.token_ids))
            places = prompt_places(text, asked.token_ids, self._tokenizer.stream(False))
            scores.add_prompt(zip(asked.token_ids, known, strict=True), places)
        return scores
