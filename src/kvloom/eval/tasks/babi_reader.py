"""The oracle of the BABILong tasks: answers a question by reading the text.

It shares no state with the simulator. It recognizes facts among other text by their form and replays them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from kvloom.eval.tasks.babi_stories import NUMBERS
from kvloom.eval.tasks.babi_world import DROP, GIVE, GIVERS, MOVE, PEOPLE, ROOMS, TAKE, THINGS


def _any(words: tuple[str, ...]) -> str:
    return "(?:" + "|".join(words) + ")"


_P, _R, _T = f"({_any(tuple(dict.fromkeys(PEOPLE + GIVERS)))})", f"the ({_any(ROOMS)})", f"the ({_any(THINGS)})"
_FACT = re.compile(
    rf"\b{_P} (?:{_any(MOVE)} {_R}|{_any(TAKE)} {_T}|{_any(DROP)} {_T}|{_any(GIVE)} {_T} to {_P}"
    rf"|is in {_R}|is no longer in {_R}|is either in {_R} or in {_R})\."
)
_WAY = re.compile(r"\bThe (\w+) is (north|south|east|west) of the (\w+)\.")


@dataclass(slots=True)
class Known:
    """The state of the world according to the facts read so far."""

    rooms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Rooms in which a person may be; empty if the person is only known to have left a room."""
    holder: dict[str, str] = field(default_factory=dict)
    trail: dict[str, list[str]] = field(default_factory=dict)
    """Rooms in which a thing has been, in order."""
    gifts: list[tuple[str, str, str]] = field(default_factory=list)
    ways: list[tuple[str, str, str]] = field(default_factory=list)

    def held(self, person: str) -> list[str]:
        return [thing for thing in THINGS if self.holder.get(thing) == person]

    def be(self, person: str, *rooms: str) -> None:
        self.rooms[person] = rooms
        for thing in self.held(person):
            self.see(thing, person)

    def see(self, thing: str, person: str) -> None:
        for room in self.rooms.get(person, ()):
            trail = self.trail.setdefault(thing, [])
            if trail[-1:] != [room]:
                trail.append(room)


def read(text: str) -> Known:
    """Replay all facts found in a text."""
    known = Known()
    for fact in _FACT.finditer(text):
        person, walked, taken, dropped, given, receiver, there, left, either, other = fact.groups()
        if walked or there:
            known.be(person, walked or there)
        elif taken:
            known.holder[taken] = person
            known.see(taken, person)
        elif dropped:
            known.holder.pop(dropped, None)
        elif given:
            known.holder[given] = receiver
            known.gifts.append((person, given, receiver))
        elif left:
            known.be(person)
        else:
            known.be(person, either, other)
    known.ways.extend((a, way, b) for a, way, b in _WAY.findall(text))
    return known


def answer(known: Known, question: str) -> str:
    """The answer to a question; empty if it does not follow from the facts."""
    for form, find in _FORMS:
        match = re.fullmatch(form, question)
        if match:
            return find(known, *match.groups())
    return ""


def _where(known: Known, person: str) -> str:
    return known.rooms.get(person, ("",))[0]


def _where_thing(known: Known, thing: str) -> str:
    return known.trail.get(thing, [""])[-1]


def _where_before(known: Known, thing: str, room: str) -> str:
    trail = known.trail.get(thing, [])
    return next((before for before, now in reversed(list(pairwise(trail))) if now == room), "")


def _is_there(known: Known, person: str, room: str) -> str:
    if person not in known.rooms:
        return ""
    rooms = known.rooms[person]
    if room not in rooms:
        return "no"
    return "yes" if len(rooms) == 1 else "maybe"


def _gift(known: Known, *, giver: str = "", thing: str = "", receiver: str = "", wanted: int) -> str:
    asked = (giver, thing, receiver)
    fits = [gift for gift in known.gifts if all(a in ("", b) for a, b in zip(asked, gift, strict=True))]
    return fits[-1][wanted] if fits else ""


def _count(known: Known, person: str) -> str:
    return NUMBERS[len(known.held(person))] if known.rooms else ""


def _list(known: Known, person: str) -> str:
    return (", ".join(known.held(person)) or "nothing") if known.rooms else ""


_FORMS: tuple[tuple[str, Callable[..., str]], ...] = (
    (r"Where is the (\w+)\?", _where_thing),
    (r"Where is (\w+)\?", _where),
    (r"Where was the (\w+) before the (\w+)\?", _where_before),
    (r"What is (\w+) of the (\w+)\?", lambda k, way, b: next((a for a, w, of in k.ways if (w, of) == (way, b)), "")),
    (r"What is the (\w+) (\w+) of\?", lambda k, a, way: next((b for on, w, b in k.ways if (on, w) == (a, way)), "")),
    (r"What did (\w+) give to (\w+)\?", lambda k, g, r: _gift(k, giver=g, receiver=r, wanted=1)),
    (r"Who did (\w+) give the (\w+) to\?", lambda k, g, t: _gift(k, giver=g, thing=t, wanted=2)),
    (r"Who gave the (\w+) to (\w+)\?", lambda k, t, r: _gift(k, thing=t, receiver=r, wanted=0)),
    (r"Who received the (\w+)\?", lambda k, t: _gift(k, thing=t, wanted=2)),
    (r"Is (\w+) in the (\w+)\?", _is_there),
    (r"How many things is (\w+) carrying\?", _count),
    (r"What is (\w+) carrying\?", _list),
)
