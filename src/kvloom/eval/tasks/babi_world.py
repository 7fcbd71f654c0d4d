"""A small world where people walk between rooms and carry things. Source of the idea: bAbI (Weston et al. 1502.05698).

The simulator is our own. It draws legal actions only: a thing can be taken only by a person in the same room.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

ROOMS = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "football", "milk")
PEOPLE = ("Mary", "John", "Sandra", "Daniel")
GIVERS = ("Mary", "Fred", "Jeff", "Bill")
STAND_INS = ("Alice", "Peter", "Laura", "Simon", "Oscar", "Frank", "Henry")
"""Names for the people in worked examples, one for each name used in stories."""

MOVE = ("went to", "moved to", "walked to", "travelled to", "went back to")
TAKE = ("picked up", "took", "got", "grabbed")
DROP = ("dropped", "put down", "left")
GIVE = ("gave", "handed", "passed")


@dataclass(slots=True)
class World:
    """Who is where and holds what. ``facts`` are the sentences that describe the actions, one per action."""

    rng: random.Random
    people: tuple[str, ...] = PEOPLE
    room_of: dict[str, str] = field(default_factory=dict)
    """The rooms of people, and of things that nobody holds and whose room is known."""
    holder_of: dict[str, str] = field(default_factory=dict)
    rooms_of_thing: dict[str, list[str]] = field(default_factory=dict)
    """Rooms in which a thing has been since it was first taken, without consecutive repeats."""
    facts: list[str] = field(default_factory=list)

    def act(self, carrying: float) -> None:
        """Perform a random legal action: with probability ``carrying`` one on a thing, if that is possible."""
        if not (self.rng.random() < carrying and self._handle()):
            self.move(self.rng.choice(self.people))

    def move(self, person: str, room: str | None = None) -> None:
        """Walk to a room; by default to a random other one."""
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
        """The room in which a thing is, if known."""
        return self.room_of.get(self.holder_of.get(thing, thing))

    def _handle(self) -> bool:
        """Take or drop something; False if nobody can."""
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
        """A thing that has not been mentioned yet may be anywhere, and therefore also here."""
        return thing not in self.holder_of and self.room_of.get(thing, self.room_of[person]) == self.room_of[person]

    def _note(self, thing: str, room: str) -> None:
        rooms = self.rooms_of_thing.setdefault(thing, [])
        if not rooms or rooms[-1] != room:
            rooms.append(room)
