"""The last requests: whose they are, and, once answered, what was reused and what it took. No text."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from kvloom.engine.account import tokens_per_s
from kvloom.engine.outputs import RequestMetrics, RequestUpdate
from kvloom.server.edge.caller import Caller

_MOST_REQUESTS = 512
MOST_ANSWERS = 512


@dataclass(frozen=True, slots=True)
class Asked:
    """``reply_id``: of the reply that has its answer. ``owner``: as of ``Caller``. ``at_s``: Unix time."""

    reply_id: str
    request_id: str
    owner: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Answered:
    """``number``: counts answers, from 1 on. ``at_s``: Unix time of the end. ``metrics``: of the request, final, but
    without the time of each token. ``tokens``: of continuation 0. ``tokens_per_s``: after its first one.
    """

    number: int
    reply_id: str
    request_id: str
    owner: str
    at_s: float
    prompt_tokens: int
    tokens: int
    tokens_per_s: float | None
    metrics: RequestMetrics = field(repr=False)


def may_see(caller: Caller, owner: str) -> bool:
    """Everybody sees requests of their own key, admins all. Without keys, all are everybody's."""
    return caller.role == "admin" or caller.owner == owner


@dataclass(slots=True)
class Recent:
    """On the event loop only. ``last``: the number of the last answer."""

    now: Callable[[], float] = time.time
    last: int = field(default=0, init=False)
    _asked: OrderedDict[str, Asked] = field(default_factory=OrderedDict, init=False)
    _answers: deque[Answered] = field(default_factory=lambda: deque(maxlen=MOST_ANSWERS), init=False)

    def begun(self, reply_id: str, request_id: str, caller: Caller) -> None:
        """A request is about to be handed to the engine."""
        self._asked[request_id] = Asked(reply_id, request_id, caller.owner, self.now())
        if len(self._asked) > _MOST_REQUESTS:
            self._asked.popitem(last=False)

    def answered(self, update: RequestUpdate) -> None:
        """A request has been answered in full."""
        asked = self._asked.get(update.request_id)
        if asked is None:
            return  # so many came after it that it has been forgotten
        self.last += 1
        answer = Answered(
            number=self.last,
            reply_id=asked.reply_id,
            request_id=asked.request_id,
            owner=asked.owner,
            at_s=self.now(),
            prompt_tokens=len(update.prompt_token_ids),
            tokens=len(update.metrics.token_times_s),
            tokens_per_s=tokens_per_s(update.metrics),
            metrics=replace(update.metrics, token_times_s=[]),
        )
        self._answers.append(answer)

    def requests(self, caller: Caller, most: int) -> list[Asked]:
        """The last ones that this caller may see, the newest first."""
        seen = (asked for asked in reversed(self._asked.values()) if may_see(caller, asked.owner))
        return [asked for asked, _ in zip(seen, range(most), strict=False)]

    def of(self, reply_id: str, caller: Caller) -> list[Asked]:
        """Those for the prompts of one body, if this caller may see them, in the order in which they were asked."""
        return [each for each in self._asked.values() if each.reply_id == reply_id and may_see(caller, each.owner)]

    def answers(self, caller: Caller, after: int) -> Iterator[Answered]:
        """With a higher number than ``after``, those that this caller may see, in order."""
        for answer in self._answers:
            if answer.number > after and may_see(caller, answer.owner):
                yield answer

    def of_reply(self, reply_id: str, caller: Caller) -> list[Answered]:
        """Those to the prompts of one body, if this caller may see them, in the order in which they were answered."""
        mine = [answer for answer in self._answers if answer.reply_id == reply_id]
        return [answer for answer in mine if may_see(caller, answer.owner)]
