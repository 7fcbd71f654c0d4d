"""Turns: fair queueing between clients, by start tags.

    turn(request) = max(virtual time, where the client's last request ended)
    end(request)  = turn + the sequences it brings
    virtual time  = the latest turn that was started

Requests are served in order of (turn, arrival). While several clients wait, none gets more ahead of another than the
largest request of each; one client alone sees its requests in the order in which they came. Nothing is ever put before
what was started already. (Goyal, Vin, Cheng: Start-time Fair Queueing, SIGCOMM 1996; a sequence counts as one.)
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Turns:
    """``ends``: of the clients that are ahead of the virtual time."""

    now: int = 0
    ends: dict[str, int] = field(default_factory=dict)

    def take(self, client: str, sequences: int) -> int:
        """The turn of a client's next request."""
        turn = max(self.now, self.ends.get(client, 0))
        self.ends[client] = turn + sequences
        return turn

    def started(self, turn: int) -> None:
        """A request of this turn runs from now on."""
        if turn > self.now:
            self.now = turn
            self.ends = {client: end for client, end in self.ends.items() if end > turn}

    def rest(self) -> None:
        """Nobody waits and nothing runs: what anybody had before is forgotten."""
        self.now = 0
        self.ends.clear()
