"""An offload: pages that a sequence holds, on their way to a tier, so that it can do without them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kvloom.engine.tiers.alarm import Alarm, BeginTimer
from kvloom.memory.tier.base import Fault, StoredPage, Tier, TierFault


@dataclass(eq=False)
class Offload:
    """``pages``: complete, and held until they have ``left``, or until the offload is cancelled. ``patience_s``: how
    long it may go without a page that was written, by ``clock``. ``news``: called from the writing thread at the end.

    A page is copied, and what was copied is only written when the offload has not been cancelled until then: whoever
    cancels may let go of the pages at once, whatever the tier does. A fault ends it.
    """

    pages: Sequence[StoredPage]
    tier: Tier
    patience_s: float
    clock: Callable[[], float]
    timer: BeginTimer
    news: Callable[[], None]
    written: int = field(default=0, init=False)
    fault: Fault | None = field(default=None, init=False)
    cancelled: bool = field(default=False, init=False)
    began_s: float = field(init=False)
    heard_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.began_s = self.heard_s = self.clock()
        self._lock = threading.Lock()
        self._alarm = Alarm(self.patience_s, self.news, self.timer)

    @property
    def left(self) -> bool:
        """Whether the tier has them all."""
        return self.written == len(self.pages)

    @property
    def hopeless(self) -> bool:
        """Whether a page was not written, or none for too long."""
        return self.fault is not None or (not self.left and self.clock() - self.heard_s >= self.patience_s)

    @property
    def num_bytes(self) -> int:
        """Written so far."""
        return sum(page.data.nbytes for page in self.pages[: self.written])

    def turn(self) -> None:
        """It was another's turn before: its patience begins now."""
        self.heard_s = self.clock()

    def watch(self) -> None:
        """See to it that there is news when its patience is at an end, whatever its tier does."""
        self._alarm.set()

    def cancel(self) -> None:
        """Nothing is read from the pages any more."""
        with self._lock:
            self.cancelled = True
        self._alarm.stop()

    def write(self) -> None:
        """Write all pages; for a thread of its own."""
        self.began_s = self.heard_s = self.clock()
        for page in self.pages:
            data = bytes(page.data)
            with self._lock:  # what is copied is whole, unless it was let go of meanwhile
                if self.cancelled:
                    return
            self.fault = _write(self.tier, page, data)
            if self.fault is not None:
                break
            self.written, self.heard_s = self.written + 1, self.clock()
        self.news()


def _write(tier: Tier, page: StoredPage, data: bytes) -> Fault | None:
    try:
        tier.write(StoredPage(page.place, page.parent, page.position, page.tokens, memoryview(data)))
    except TierFault as fault:
        return fault.fault
    except Exception:
        return Fault.FAILED
    return None
