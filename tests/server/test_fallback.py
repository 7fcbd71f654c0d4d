"""Another way is taken only before anything was said, and only where what was asked is impossible."""

from __future__ import annotations

from kvloom.engine.outputs import CompletionDelta, RequestMetrics, RequestUpdate
from kvloom.errors import InternalError, KvloomError, RequestError
from kvloom.server.fallback import Stream, or_else


class Script:
    """Streams what it is told to, and remembers whether it was begun and closed."""

    def __init__(self, *steps: str | Exception) -> None:
        self.steps, self.begun, self.over = steps, False, False

    async def stream(self) -> Stream:
        self.begun = True
        try:
            for step in self.steps:
                if isinstance(step, Exception) and not isinstance(step, KvloomError):
                    raise step
                yield _update(step)
        finally:
            self.over = True


def _update(step: str | Exception) -> RequestUpdate:
    error = step if isinstance(step, KvloomError) else None
    deltas = () if error else (CompletionDelta(0, str(step), (1,), None),)
    return RequestUpdate("r", [1], deltas, RequestMetrics(), finished=error is not None, error=error)


async def said(first: Script, second: Script, refusals: list[int], stop_after: int = 99) -> list[object]:
    updates, found = or_else(first.stream(), second.stream(), lambda: refusals.append(1)), []
    async for update in updates:
        found.append(update.error or update.deltas[0].text)
        if len(found) == stop_after:
            break
    await updates.aclose()
    return found


async def test_what_can_be_had_is_all_there_is() -> None:
    first, second, refusals = Script("a", "b"), Script("c"), []
    assert await said(first, second, refusals) == ["a", "b"]
    assert (first.over, second.begun, refusals) == (True, False, [])


async def test_what_cannot_be_had_is_done_without() -> None:
    first, second, refusals = Script(RequestError("no")), Script("c", "d"), []
    assert await said(first, second, refusals) == ["c", "d"]
    assert (first.over, second.over, refusals) == (True, True, [1])


async def test_a_fault_is_no_refusal_nor_is_what_comes_later() -> None:
    for steps in ([InternalError("broken")], ["a", RequestError("too late")]):
        first, second, refusals = Script(*steps), Script("c"), []
        assert await said(first, second, refusals) == list(steps)
        assert (second.begun, refusals) == (False, [])


async def test_what_the_other_way_ends_with_is_told() -> None:
    late = RequestError("that cannot be either")
    assert await said(Script(RequestError("no")), Script(late), []) == [late]


async def test_closing_it_ends_what_runs() -> None:
    for first in (Script("a", "b"), Script(RequestError("no"))):
        second = Script("c", "d")
        await said(first, second, [], stop_after=1)
        assert first.over
        assert second.over == second.begun
