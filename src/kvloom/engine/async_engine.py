"""An engine on a thread of its own, for servers: asyncio on one side, the step loop on the other.

event loop                                   engine thread
stream() -- command queue ---------------->  submit / abort / reset
         <-- call_soon_threadsafe ---------  RequestUpdates, all of a step at once (update_batcher.py)
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from kvloom.config import EngineConfig
from kvloom.engine.assemble import Assembly
from kvloom.engine.build import build
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.chunks import AsyncChunks
from kvloom.engine.defaults import SamplingDefaults
from kvloom.engine.engine import Engine
from kvloom.engine.outputs import RequestOutput, RequestUpdate
from kvloom.engine.overview import Overview, overview
from kvloom.engine.params import SamplingParams
from kvloom.engine.stats import EngineStats
from kvloom.engine.update_batcher import UpdateBatcher
from kvloom.engine.update_queue import UpdateQueue, tell
from kvloom.engine.workers import Workers
from kvloom.errors import InternalError, KvloomError
from kvloom.model.text.chat import start_rendering
from kvloom.model.text.tokenizer import Tokenizer
from kvloom.policy.events import Listener

if TYPE_CHECKING:
    from kvloom.engine.grammar.compiled import Grammar

logger = logging.getLogger(__name__)

_IDLE_S = 0.5
_OBEY_S = 0.02
"""How long commands may keep running requests waiting, between two steps."""
_CLOSED = "the engine is closed"

T = TypeVar("T")


class AsyncEngine:
    """Serves many requests at once. Loads the model and starts its thread on construction."""

    def __init__(self, config: EngineConfig) -> None:
        loaded = build(config)
        if loaded.manifest.text.chat_template is not None:
            start_rendering()
        self._start(loaded.engine, loaded.tokenizer, loaded.manifest.name, loaded.defaults)

    @classmethod
    def over(cls, engine: Engine, tokenizer: Tokenizer, model_name: str) -> AsyncEngine:
        """Drive an engine that is already built."""
        self = cls.__new__(cls)
        self._start(engine, tokenizer, model_name, SamplingDefaults())
        return self

    def _start(self, engine: Engine, tokenizer: Tokenizer, model_name: str, defaults: SamplingDefaults) -> None:
        self.engine, self.tokenizer, self.model_name = engine, tokenizer, model_name
        self.max_model_len = engine.max_len
        self.facts = engine.facts()
        self.sampling_defaults = defaults
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._queues: dict[str, UpdateQueue] = {}
        self._texts = Workers("kvloom-text", count=1)
        self._compilers = Workers("kvloom-grammar", count=1)
        self._batcher = UpdateBatcher(self.engine.clock)
        self._closing, self._gate = threading.Event(), threading.Lock()
        self._stats = engine.stats()
        engine.stall.interrupt = lambda: self._commands.put(_nothing)
        self._thread = threading.Thread(target=self._loop, name="kvloom-engine", daemon=True)
        self._thread.start()

    # -- asking ----------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closing.is_set()

    def stats(self) -> EngineStats:
        """As of the end of the last step, or of the last awaited command."""
        return self._stats

    def longest(self, cache: CacheParams) -> int:
        """Tokens that such a request may have."""
        return self.engine.intake.longest(cache)

    def validate(self, prompt_ids: list[int], params: SamplingParams, cache: CacheParams) -> None:
        """Raise RequestError when such a request can never be served."""
        self.engine.intake.validate(prompt_ids, params, cache)

    async def compiled(self, params: SamplingParams) -> Grammar | None:
        """The form of the answer, compiled on a thread of its own. Raises ParamsError when it is none."""
        asked = params.structured_outputs
        return None if asked is None else await self._compilers.run(lambda: self.engine.intake.grammars.of(asked))

    async def stream(
        self,
        prompt: str | list[int],
        params: SamplingParams,
        request_id: str | None = None,
        *,
        client: str = "",
        cache: CacheParams | None = None,
    ) -> AsyncGenerator[RequestUpdate, None]:
        """Yield what each step adds. Closing the generator aborts. Raises RequestError before the first update."""
        text = prompt if isinstance(prompt, str) else None
        limit = self.longest(cache or CacheParams())
        ids = await self._encode(prompt, limit) if isinstance(prompt, str) else list(prompt)
        name, updates = request_id or f"req-{uuid.uuid4().hex}", UpdateQueue()
        grammar = await self.compiled(params)

        def submit() -> None:
            self.engine.submit(name, ids, params, text, client=client, cache=cache, grammar=grammar)

        self._command(lambda: self._submit(name, submit, updates))
        finished = False
        try:
            while not finished:
                update = await updates.get()
                finished = isinstance(update, KvloomError) or update.finished
                if isinstance(update, KvloomError):
                    raise update
                yield update
        finally:
            if not finished and self.alive:
                self._command(lambda: self._abort(name, updates))

    async def _encode(self, text: str, limit: int) -> list[int]:
        return await self.in_background(lambda: self.tokenizer.encode(text, max_tokens=limit))

    async def generate(
        self,
        prompt: str | list[int],
        params: SamplingParams,
        request_id: str | None = None,
        *,
        cache: CacheParams | None = None,
    ) -> AsyncIterator[RequestOutput]:
        """Yield the whole output so far, after each step."""
        name = request_id or f"req-{uuid.uuid4().hex}"
        assembly = Assembly(name, prompt if isinstance(prompt, str) else None, params.n)
        async with aclosing(self.stream(prompt, params, name, cache=cache)) as updates:
            async for update in updates:
                yield assembly.add(update)

    async def abort(self, request_id: str) -> None:
        """End a request at once; its stream gets a last update with finish_reason ``abort``."""
        await self._call(lambda: self._abort(request_id, None))

    @property
    def chunks(self) -> AsyncChunks:
        """Passages that are computed alone, once, for prompts to have them anywhere."""
        return AsyncChunks(self, self.tokenizer)

    async def ask(self, question: Callable[[Engine], T]) -> T:
        """Answer on the engine's thread, between two steps."""
        answers: list[T] = []
        await self._call(lambda: answers.append(question(self.engine)))
        return answers[0]

    async def overview(self, request_ids: Sequence[str]) -> Overview:
        """How memory is filled, and where the KV of these requests lies."""
        return await self.ask(lambda engine: overview(engine, request_ids))

    async def listen(self, listener: Listener) -> None:
        """Tell ``listener``, on the engine's thread, what is stored in RAM, and every event from now on."""
        await self._call(lambda: self.engine.ledger.listen(listener))

    async def in_background(self, work: Callable[[], T]) -> T:
        """On the thread that converts texts."""
        return await self._texts.run(work)

    async def reset_cache(self) -> None:
        await self._call(self.engine.reset_cache)

    async def check(self) -> None:
        """Audit the ledger between two steps. Raises InternalError."""
        await self._call(self.engine.check)

    def close(self) -> None:
        """Stop the thread after the step it is in; open requests end with an error. Closing again does nothing."""
        with self._gate:  # whatever passed the gate before is answered, nothing passes after
            self._closing.set()
        self._commands.put(_nothing)  # wakes the thread if it sleeps
        self._thread.join()
        self.engine.close()

    # -- on the event loop -----------------------------------------------------------------------------------------

    def _command(self, command: Callable[[], None]) -> None:
        with self._gate:
            if not self.alive:
                raise InternalError(_CLOSED)
            self._commands.put(command)

    async def _call(self, work: Callable[[], None]) -> None:
        """Run ``work`` on the engine thread and wait for it."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def command() -> None:
            try:
                if self._closing.is_set():
                    raise InternalError(_CLOSED)
                work()
                self._stats = self.engine.stats()
            except Exception as error:
                tell(loop, _settle, done, error)
            else:
                tell(loop, _settle, done, None)

        self._command(command)
        await done

    # -- on the engine thread --------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._closing.is_set():
            busy = self.engine.runnable
            self._obey(wait=not busy, seconds=_OBEY_S if busy else math.inf)
            if self.engine.runnable and not self._closing.is_set():
                self._step()
            self._batcher.send(urgent=not self.engine.runnable)
            self._stats = self.engine.stats()
        self._obey(wait=False, seconds=math.inf)  # what came in meanwhile is told that it is too late
        for name in list(self._queues):
            self._fail(name, _CLOSED)
        self._batcher.send(urgent=True)

    def _obey(self, wait: bool, seconds: float) -> None:
        """Carry out the commands there are, within ``seconds``; when idle, sleep until one comes.

        Any of them may bring what requests wait for.
        """
        until_s = self.engine.clock() + seconds
        try:
            command = self._commands.get(timeout=_IDLE_S) if wait else self._commands.get_nowait()
            while True:
                try:
                    command()
                except Exception:
                    logger.exception("a command failed")
                self.engine.wake()
                if self.engine.clock() > until_s:
                    return
                command = self._commands.get_nowait()
        except queue.Empty:
            return

    def _step(self) -> None:
        try:
            updates = self.engine.step()
        except Exception:
            logger.exception("a step failed; the requests in flight end with an error")
            for name in list(self.engine.requests):
                self._fail(name, "internal error")
            return
        for update in updates:
            self._deliver(update)

    def _deliver(self, update: RequestUpdate) -> None:
        updates = self._queues.get(update.request_id)
        if updates is not None:
            self._batcher.add(updates, update)
        if update.finished:
            self._queues.pop(update.request_id, None)

    def _submit(self, name: str, submit: Callable[[], None], updates: UpdateQueue) -> None:
        try:
            if self._closing.is_set():
                raise InternalError(_CLOSED)
            submit()
        except KvloomError as error:
            self._batcher.add(updates, error)
        except Exception:
            logger.exception("a request could not be submitted")
            self._batcher.add(updates, InternalError("internal error"))
        else:
            self._queues[name] = updates

    def _abort(self, name: str, updates: UpdateQueue | None) -> None:
        """``updates``: abort only if the request is still the one that this queue belongs to."""
        if updates is not None and self._queues.get(name) is not updates:
            return
        update = self.engine.abort(name)
        if update is not None:
            self._deliver(update)

    def _fail(self, name: str, message: str) -> None:
        try:
            self.engine.abort(name)
        except Exception:
            logger.exception("request %s could not be aborted", name)
        updates = self._queues.pop(name, None)
        if updates is not None:
            self._batcher.add(updates, InternalError(message))


def _nothing() -> None:
    """A command that only wakes the thread."""


def _settle(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():  # cancelled meanwhile
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
