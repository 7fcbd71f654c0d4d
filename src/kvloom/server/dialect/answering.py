"""Answering a request with a ``Writer``: whole or streamed, and nothing at all when its client has left."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kvloom.config import ServerConfig
from kvloom.engine.chunks.named import NamedDocuments
from kvloom.server.admin.record import Record
from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.naming import Naming
from kvloom.server.dialect.reasoning import Reasoning
from kvloom.server.dialect.served_names import ServedNames
from kvloom.server.dialect.stream import HEARTBEAT, EventStream
from kvloom.server.dialect.tools.forms import ToolForms
from kvloom.server.dialect.writing import Answer, Writer, frames, to_frames, whole
from kvloom.server.disconnect import ClientGone, unless_gone
from kvloom.server.edge.caller import caller_of
from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.job import Job
from kvloom.server.lanes import Lanes
from kvloom.server.updates import run_job
from kvloom.server.waiting import Waiting

_CLIENT_CLOSED_REQUEST = 499  # never received by anyone; what proxies log in this case


@dataclass(frozen=True, slots=True)
class Served:
    """What all endpoints of a server answer with."""

    engine: ServedEngine
    record: Record
    waiting: Waiting
    config: ServerConfig
    lanes: Lanes
    names: ServedNames
    forms: ToolForms
    documents: NamedDocuments
    reasoning: Reasoning

    @classmethod
    def over(
        cls, engine: ServedEngine, record: Record, config: ServerConfig, documents: NamedDocuments | None = None
    ) -> Served:
        """``documents``: None has them in memory."""
        names, forms = ServedNames.of(config, engine.model_name), ToolForms(engine.tokenizer)
        named = documents or NamedDocuments(None, config.stored_documents_bytes)
        reasoning = Reasoning.of(config, engine.tokenizer)
        return cls(engine, record, Waiting(config.max_waiting), config, Lanes(), names, forms, named, reasoning)

    def naming(self, request: Request) -> Naming:
        """What ids of documents stand for in this request."""
        return Naming(self.documents, caller_of(request).owner)

    async def answer(
        self,
        request: Request,
        job: Job,
        reply_id: str,
        writer: Writer,
        *,
        stream: bool,
        headers: dict[str, str],
        heartbeat: bytes = HEARTBEAT,
    ) -> Response:
        """``job`` has one prompt and one continuation."""
        answer = Answer.of(job)
        updates = run_job(self.engine, self.record, self.waiting, job, reply_id, caller_of(request))
        if stream:
            events = EventStream(
                frames(writer, answer, updates),
                self.config.heartbeat_seconds,
                lambda reply: to_frames(writer.failed(reply)),
                heartbeat,
            )
            events.headers.update(headers)
            return events
        return await unless_left(as_json(whole(writer, answer, updates), headers), request)


async def as_json(work: Awaitable[Json], headers: dict[str, str]) -> Response:
    return JSONResponse(await work, headers=headers)


async def unless_left(work: Coroutine[object, object, Response], request: Request) -> Response:
    """The reply that ``work`` comes to; an empty one, and the work is cancelled, when the client leaves."""
    try:
        return await unless_gone(work, request.receive)
    except ClientGone:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)
