"""The bound on prompts that wait: who comes when there are that many is told to come again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kvloom.server.errors import QueueFull


@dataclass(slots=True)
class Waiting:
    """``count``: prompts of all clients that the engine has not said anything of yet. On the event loop only."""

    limit: int
    count: int = field(default=0, init=False)

    @contextmanager
    def places(self, prompts: int) -> Iterator[Places]:
        """Take a place for each prompt, given back when it begins, or at the end.

        However many there are, they may come when nobody else waits. Raises QueueFull.
        """
        if self.count and self.count + prompts > self.limit:
            raise QueueFull(f"{self.count} prompts are waiting, at most {self.limit} may", hint="try again later")
        self.count += prompts
        taken = Places(self, set(range(prompts)))
        try:
            yield taken
        finally:
            self.count -= len(taken.waiting)
            taken.waiting.clear()


@dataclass(slots=True)
class Places:
    """Of one request, by the index of the prompt."""

    of: Waiting
    waiting: set[int]

    def begun(self, prompt: int) -> None:
        if prompt in self.waiting:
            self.waiting.discard(prompt)
            self.of.count -= 1
