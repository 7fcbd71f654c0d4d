"""An engine that fails on demand."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.outputs import RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.errors import InternalError

from .echo_engine import EchoEngine

_SECRET = "secret detail"


class FaultyEngine(EchoEngine):
    """The words ``!crash`` and ``!fail`` in a prompt break its third token; ``audit_fault`` is what audits find."""

    audit_fault: str | None = None

    async def check(self) -> None:
        await super().check()
        if self.audit_fault is not None:
            raise InternalError(self.audit_fault)

    async def stream(
        self,
        prompt: str | list[int],
        params: SamplingParams,
        request_id: str | None = None,
        *,
        client: str = "",
        cache: CacheParams | None = None,
    ) -> AsyncGenerator[RequestUpdate, None]:
        words = (prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt)).split()
        tokens = 0
        async with aclosing(super().stream(prompt, params, request_id, client=client, cache=cache)) as updates:
            async for update in updates:
                tokens += sum(len(delta.token_ids) for delta in update.deltas)
                if tokens >= 3 and "!crash" in words:
                    raise RuntimeError(_SECRET)
                yield replace(update, error=InternalError(_SECRET)) if tokens >= 3 and "!fail" in words else update
