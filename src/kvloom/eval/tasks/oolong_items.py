"""Dated remarks, whose kind is that of the thing they mention: the items of the Oolong-style tasks."""

from __future__ import annotations

import datetime
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

KINDS: Mapping[str, tuple[str, ...]] = {
    "animal": ("heron", "otter", "beaver", "falcon", "hedgehog", "lynx", "tortoise", "badger", "salmon", "moose"),
    "tool": ("hammer", "chisel", "wrench", "spade", "pliers", "screwdriver", "saw", "rake", "drill", "axe"),
    "food": ("omelette", "pancake", "lasagna", "porridge", "sandwich", "curry", "dumpling", "risotto", "stew", "pie"),
    "vehicle": ("tractor", "bicycle", "tram", "lorry", "canoe", "scooter", "taxi", "sledge", "yacht", "helicopter"),
    "instrument": ("violin", "trumpet", "oboe", "harp", "banjo", "drum", "cello", "flute", "piano", "accordion"),
}
"""Things by kind; no thing belongs to two kinds."""

_REMARKS = (
    "I found {a_thing} near the station.",
    "My neighbour showed me {a_thing} today.",
    "Has anyone seen the {thing} from last week?",
    "There was {a_thing} in the photograph.",
    "We talked about the {thing} for an hour.",
    "Somebody painted a picture of {a_thing}.",
)
_LINE = re.compile(r"^Date: (\d{4}-\d\d-\d\d) \| User: (\d+) \| Text: (.*)$", re.MULTILINE)
_FIRST_DAY = datetime.date(2021, 1, 1)
_DAYS = 720
_USERS = 15
_BUSY_SHARE = 0.2
_ITEMS_OF_BUSY = 0.8


@dataclass(frozen=True, slots=True)
class Item:
    """One remark. ``day`` is an ISO date, which sorts correctly as text."""

    day: str
    user: str
    kind: str
    text: str

    @property
    def line(self) -> str:
        return f"Date: {self.day} | User: {self.user} | Text: {self.text}"


class ItemStream:
    """An endless stream of items. Each stream has its own mix of kinds; a fifth of the users write most items."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._shares = [rng.gammavariate(1.5, 1) + 0.1 for _ in KINDS]
        users = [str(number) for number in rng.sample(range(10000, 100000), _USERS)]
        busy = round(_BUSY_SHARE * _USERS)
        self._busy, self._others = users[:busy], users[busy:]

    def draw(self) -> Item:
        rng = self._rng
        kind = rng.choices(list(KINDS), self._shares)[0]
        thing = rng.choice(KINDS[kind])
        text = rng.choice(_REMARKS).format(thing=thing, a_thing=f"an {thing}" if thing[0] in "aeio" else f"a {thing}")
        user = rng.choice(self._busy if rng.random() < _ITEMS_OF_BUSY else self._others)
        day = _FIRST_DAY + datetime.timedelta(days=rng.randrange(_DAYS))
        return Item(day.isoformat(), user, kind, text)


def parse(text: str) -> list[Item]:
    """The items in a text; their kinds are derived from the things mentioned."""
    kind_of = {thing: kind for kind, things in KINDS.items() for thing in things}
    items = []
    for day, user, remark in _LINE.findall(text):
        kinds = [kind_of[word] for word in re.findall(r"\w+", remark) if word in kind_of]
        items.append(Item(day, user, kinds[0], remark))
    return items
