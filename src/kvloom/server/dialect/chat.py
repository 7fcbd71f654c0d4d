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
from kvloom.server.pieces import (
    ArgumentsPiece,
    CallPiece,
    Piece,
    PieceReader,
    PlainReader,
    ReasoningPiece,
    TextPiece,
    finish_reason_of,
)


class ChatReply(Reply):
    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, model: str, job: Job, tokenizer: Tokenizer) -> None:
        super().__init__(model, job)
        self._top = job.params.logprobs
        self._bytes_of = tokenizer.token_bytes
        self._readers: dict[int, PieceReader] = {}
        self._tools = job.new_reader is not PlainReader

    def whole(self) -> Json:
        document = super().whole() | self.opening()
        if self.job.show_prompt_logprobs:
            document["prompt_logprobs"] = prompt_logprobs(self._prompt_logprobs.get(0, []))
        return document

    def choice(self, index: int, answer: Answer) -> Json:
        reader = self.job.new_reader()
        message = _message(self._echoed(), [*reader.push("".join(answer.texts)), *reader.finish()])
        return {
            "index": index,
            "message": message,
            "logprobs": None if self._top is None else self._scores(answer.logprobs, self._top),
            "finish_reason": finish_reason_of(answer.finish_reason, reader.calls),
            "stop_reason": answer.stop_reason,
        }

    def delta(self, index: int, prompt: int, delta: CompletionDelta) -> list[Json]:
        chunks: list[Json] = []
        reader = self._readers.get(index)
        if reader is None:
            reader = self._readers[index] = self.job.new_reader()
            said = None if self._tools and not self.job.echo else self._echoed()
            chunks.append(_chunk(index, {"role": "assistant", "content": said}))
        over = delta.finish_reason is not None
        pieces = reader.push(delta.text) + (reader.finish() if over else [])
        scored = self._top is not None and delta.logprobs
        if not pieces and not scored and not over:
            return chunks  # the token's text is held back until it is certain
        more = [_chunk(index, _told(piece)) for piece in pieces] or [_chunk(index, {"content": ""} if scored else {})]
        if self._top is not None and delta.logprobs:
            more[0]["logprobs"] = self._scores(delta.logprobs, self._top)
        if over:
            more[-1]["finish_reason"] = finish_reason_of(delta.finish_reason, reader.calls)
            more[-1]["stop_reason"] = delta.stop_reason
        return chunks + more

    def opening(self) -> Json:
        return self.prompt_ids(0) if self.job.show_token_ids else {}

    def _scores(self, tokens: Sequence[TokenLogprobs], top: int) -> Json:
        scores = chat_logprobs(tokens, top, self._bytes_of)
        return named_chat_logprobs(scores, tokens) if self.job.tokens_as_ids else scores

    def _echoed(self) -> str:
        return self.job.prompts[0].text if self.job.echo else ""


def _chunk(index: int, delta: Json) -> Json:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _told(piece: Piece) -> Json:
    """A piece, as the ``delta`` of a chunk."""
    match piece:
        case TextPiece(text):
            return {"content": text}
        case ReasoningPiece(text):
            return {"reasoning_content": text, "reasoning": text}
        case CallPiece(index, call, name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": call, "type": "function", "function": function}]}
        case ArgumentsPiece(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def _message(echoed: str, pieces: Sequence[Piece]) -> Json:
    text, thoughts, calls = [echoed], list[str](), list[Json]()
    for piece in pieces:
        match piece:
            case TextPiece(said):
                text.append(said)
            case ReasoningPiece(said):
                thoughts.append(said)
            case CallPiece(_, call, name):
                calls.append({"id": call, "type": "function", "function": {"name": name, "arguments": ""}})
            case ArgumentsPiece(index, said):
                calls[index]["function"]["arguments"] += said
    content = "".join(text)
    message: Json = {"role": "assistant", "content": content if content or not calls else None, "refusal": None}
    if thoughts:
        message |= dict.fromkeys(("reasoning_content", "reasoning"), "".join(thoughts))
    return message | {"tool_calls": calls} if calls else message
