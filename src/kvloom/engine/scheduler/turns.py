"""Turns: fair queueing between clients, by start tags.

    turn(request) = max(virtual time, end of the client's previous request)
    end(request)  = turn + number of its sequences
    virtual time  = the latest turn that has been started

Requests are served in order of (turn, arrival). While several clients wait, no client gets ahead of another by more
than the largest request of each; the requests of a single client are served in order of arrival. A new request never
precedes one that has already started. (Goyal, Vin, Cheng: Start-time Fair Queueing, SIGCOMM 1996;
every sequence costs 1.)
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Turns:
    """``now``: the virtual time. ``ends``: of the clients that are ahead of it."""

    now: int = 0
    ends: dict[str, int] = field(default_factory=dict)

    def take(self, client: str, sequences: int) -> int:
        """The turn of a client's next request."""
        turn = max(self.now, self.ends.get(client, 0))
        self.ends[client] = turn + sequences
        return turn

    def started(self, turn: int) -> None:
        """A request with this turn has been started."""
        if turn > self.now:
            self.now = turn
            self.ends = {client: end for client, end in self.ends.items() if end > turn}

    def rest(self) -> None:
        """Forget the past: called when nothing waits and nothing runs."""
        self.now = 0
        self.ends.clear()
