"""A small world where people walk between rooms and carry things. Source of the idea: bAbI (Weston et al. 1502.05698).

The simulator is our own. Only legal actions are drawn: a thing can be taken where it lies, by who stands there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

ROOMS = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "football", "milk")
PEOPLE = ("Mary", "John", "Sandra", "Daniel")
GIVERS = ("Mary", "Fred", "Jeff", "Bill")
STAND_INS = ("Alice", "Peter", "Laura", "Simon", "Oscar", "Frank", "Henry")
"""People of worked examples, as many as there are others."""

MOVE = ("went to", "moved to", "walked to", "travelled to", "went back to")
TAKE = ("picked up", "took", "got", "grabbed")
DROP = ("dropped", "put down", "left")
GIVE = ("gave", "handed", "passed")


@dataclass(slots=True)
class World:
    """Who is where and has what; ``facts`` are the sentences that tell it, one per action."""

    rng: random.Random
    people: tuple[str, ...] = PEOPLE
    room_of: dict[str, str] = field(default_factory=dict)
    """Rooms of people and, where they lie about in a known room, of things."""
    holder_of: dict[str, str] = field(default_factory=dict)
    rooms_of_thing: dict[str, list[str]] = field(default_factory=dict)
    """Where a thing has been since it was first taken, without repeats in a row."""
    facts: list[str] = field(default_factory=list)

    def act(self, carrying: float) -> None:
        """One random legal action; with probability ``carrying``, one on a thing, if anyone can."""
        if not (self.rng.random() < carrying and self._handle()):
            self.move(self.rng.choice(self.people))

    def move(self, person: str, room: str | None = None) -> None:
        """Walk to a room, any other if none is named."""
        room = room or self.rng.choice([room for room in ROOMS if room != self.room_of.get(person)])
        self.room_of[person] = room
        for thing in self.held_by(person):
            self._note(thing, room)
        self.facts.append(f"{person} {self.rng.choice(MOVE)} the {room}.")

    def take(self, person: str, thing: str) -> None:
        self.holder_of[thing] = person
        self.room_of.pop(thing, None)
        if person in self.room_of:
            self._note(thing, self.room_of[person])
        self.facts.append(f"{person} {self.rng.choice(TAKE)} the {thing}.")

    def drop(self, person: str, thing: str) -> None:
        del self.holder_of[thing]
        self.room_of[thing] = self.room_of[person]
        self.facts.append(f"{person} {self.rng.choice(DROP)} the {thing}.")

    def give(self, giver: str, thing: str, receiver: str) -> None:
        self.holder_of[thing] = receiver
        self.facts.append(f"{giver} {self.rng.choice(GIVE)} the {thing} to {receiver}.")

    def held_by(self, person: str) -> list[str]:
        return [thing for thing in THINGS if self.holder_of.get(thing) == person]

    def place_of(self, thing: str) -> str | None:
        """The room a thing is in, if known."""
        return self.room_of.get(self.holder_of.get(thing, thing))

    def _handle(self) -> bool:
        """Take or drop something; False when nobody can."""
        able = [
            (person, thing)
            for person in self.people
            if person in self.room_of
            for thing in THINGS
            if self.holder_of.get(thing) == person or self._in_reach(person, thing)
        ]
        if not able:
            return False
        person, thing = self.rng.choice(able)
        if self.holder_of.get(thing) == person:
            self.drop(person, thing)
        else:
            self.take(person, thing)
        return True

    def _in_reach(self, person: str, thing: str) -> bool:
        """A thing not seen so far may lie anywhere, so also here."""
        return thing not in self.holder_of and self.room_of.get(thing, self.room_of[person]) == self.room_of[person]

    def _note(self, thing: str, room: str) -> None:
        rooms = self.rooms_of_thing.setdefault(thing, [])
        if not rooms or rooms[-1] != room:
            rooms.append(room)
