"""Stories for the first ten bAbI tasks, each with one question and its answer."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kvloom.eval.tasks.babi_world import GIVERS, PEOPLE, ROOMS, STAND_INS, THINGS, World

DIRECTIONS = ("north", "south", "east", "west")
NUMBERS = ("none", "one", "two", "three")


@dataclass(frozen=True, slots=True)
class Story:
    """``facts`` are in order; the question is about the state after the last one. An answer with commas is a set."""

    facts: tuple[str, ...]
    question: str
    answer: str


_STAND_INS = dict(zip(dict.fromkeys((*PEOPLE, *GIVERS)), STAND_INS, strict=True))


def with_other_people(story: Story) -> Story:
    """The same story about different people, so that a worked example cannot answer the question."""

    def renamed(text: str) -> str:
        return re.sub(r"\b[A-Z]\w+", lambda found: _STAND_INS.get(found[0], found[0]), text)

    return Story(tuple(map(renamed, story.facts)), renamed(story.question), renamed(story.answer))


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of story: a generator, the labels that answers consist of, and the instruction for the model."""

    tell: Callable[[random.Random], Story]
    labels: tuple[str, ...]
    instruction: str


def where_person(rng: random.Random) -> Story:
    world = World(rng)
    for _ in range(rng.randint(2, 10)):
        world.act(carrying=0)
    person = rng.choice([person for person in PEOPLE if person in world.room_of])
    return Story(tuple(world.facts), f"Where is {person}?", world.room_of[person])


def where_thing(rng: random.Random) -> Story:
    world = _carrying(rng, lambda w: any(w.place_of(thing) for thing in THINGS), least=6)
    thing = rng.choice([thing for thing in THINGS if world.place_of(thing)])
    return Story(tuple(world.facts), f"Where is the {thing}?", str(world.place_of(thing)))


def where_thing_was(rng: random.Random) -> Story:
    def told(world: World) -> list[str]:
        return [thing for thing, rooms in world.rooms_of_thing.items() if len(rooms) > 1]

    world = _carrying(rng, lambda w: bool(told(w)), least=10)
    thing = rng.choice(told(world))
    *_, before, now = world.rooms_of_thing[thing]
    return Story(tuple(world.facts), f"Where was the {thing} before the {now}?", before)


def direction(rng: random.Random) -> Story:
    north, middle, south = rng.sample(ROOMS, 3)
    way = rng.choice(DIRECTIONS)
    facts = [f"The {north} is {way} of the {middle}.", f"The {middle} is {way} of the {south}."]
    rng.shuffle(facts)
    if rng.random() < 0.5:
        return Story(tuple(facts), f"What is {way} of the {middle}?", north)
    return Story(tuple(facts), f"What is the {middle} {way} of?", south)


def gift(rng: random.Random) -> Story:
    world = World(rng, GIVERS)
    giver, receiver = rng.sample(GIVERS, 2)
    thing = rng.choice(THINGS)
    for _ in range(rng.randint(1, 4)):
        world.move(rng.choice(GIVERS))
    world.move(giver)
    world.take(giver, thing)
    world.move(receiver, world.room_of[giver])
    world.give(giver, thing, receiver)
    for _ in range(rng.randint(0, 5)):
        world.move(rng.choice(GIVERS))
    question, answer = rng.choice(
        [
            (f"What did {giver} give to {receiver}?", thing),
            (f"Who did {giver} give the {thing} to?", receiver),
            (f"Who gave the {thing} to {receiver}?", giver),
            (f"Who received the {thing}?", receiver),
        ]
    )
    return Story(tuple(world.facts), question, answer)


def is_person_there(rng: random.Random) -> Story:
    story = where_person(rng)
    person = story.question.removeprefix("Where is ").removesuffix("?")
    return _yes_or_no(rng, story.facts, person, story.answer)


def count_held(rng: random.Random) -> Story:
    world, person = _holder(rng)
    held = world.held_by(person)
    return Story(tuple(world.facts), f"How many things is {person} carrying?", NUMBERS[len(held)])


def list_held(rng: random.Random) -> Story:
    world, person = _holder(rng)
    return Story(tuple(world.facts), f"What is {person} carrying?", ",".join(world.held_by(person)) or "nothing")


def negation(rng: random.Random) -> Story:
    facts: list[str] = []
    state: dict[str, tuple[str, bool]] = {}
    for _ in range(rng.randint(2, 8)):
        person = rng.choice(PEOPLE)
        room, there = state.get(person, ("", False))
        if there and rng.random() < 0.6:
            state[person] = (room, False)
            facts.append(f"{person} is no longer in the {room}.")
        else:
            state[person] = (rng.choice(ROOMS), True)
            facts.append(f"{person} is in the {state[person][0]}.")
    person = rng.choice(sorted(state))
    room, there = state[person]
    if there:
        return _yes_or_no(rng, tuple(facts), person, room)
    return Story(tuple(facts), f"Is {person} in the {room}?", "no")


def indefinite(rng: random.Random) -> Story:
    facts: list[str] = []
    state: dict[str, list[str]] = {}
    for _ in range(rng.randint(2, 8)):
        person, rooms = rng.choice(PEOPLE), rng.sample(ROOMS, rng.randint(1, 2))
        state[person] = rooms
        sure = f"{person} is in the {rooms[0]}."
        facts.append(sure if len(rooms) == 1 else f"{person} is either in the {rooms[0]} or in the {rooms[1]}.")
    person = rng.choice(sorted(state))
    rooms = state[person]
    asked = rng.choice(rooms if rng.random() < 0.65 else [room for room in ROOMS if room not in rooms])
    answer = "no" if asked not in rooms else "yes" if len(rooms) == 1 else "maybe"
    return Story(tuple(facts), f"Is {person} in the {asked}?", answer)


def _carrying(rng: random.Random, told: Callable[[World], bool], least: int) -> World:
    """A world after at least ``least`` actions, and as many more as it takes until ``told`` is true of it."""
    world = World(rng)
    while len(world.facts) < least or not told(world):
        world.act(carrying=0.5)
    return world


def _holder(rng: random.Random) -> tuple[World, str]:
    world = _carrying(rng, lambda w: bool(w.holder_of), least=rng.randint(5, 12))
    holding = rng.random() < 0.75
    return world, rng.choice([p for p in PEOPLE if bool(world.held_by(p)) == holding] or list(PEOPLE))


def _yes_or_no(rng: random.Random, facts: tuple[str, ...], person: str, room: str) -> Story:
    if rng.random() < 0.5:
        return Story(facts, f"Is {person} in the {room}?", "yes")
    other = rng.choice([other for other in ROOMS if other != room])
    return Story(facts, f"Is {person} in the {other}?", "no")


_ONE_ROOM = "Answer with the name of one room."
_YES_NO = "Answer with yes or no."

KINDS: Mapping[str, Kind] = {
    "qa1": Kind(where_person, ROOMS, _ONE_ROOM),
    "qa2": Kind(where_thing, ROOMS, _ONE_ROOM),
    "qa3": Kind(where_thing_was, ROOMS, _ONE_ROOM),
    "qa4": Kind(direction, ROOMS, _ONE_ROOM),
    "qa5": Kind(gift, (*GIVERS, *THINGS), "Answer with one name or one thing."),
    "qa6": Kind(is_person_there, ("yes", "no"), _YES_NO),
    "qa7": Kind(count_held, NUMBERS, "Answer with none, one, two or three."),
    "qa8": Kind(list_held, (*THINGS, "nothing"), "Answer with a list of things with commas, or with nothing."),
    "qa9": Kind(negation, ("yes", "no"), _YES_NO),
    "qa10": Kind(indefinite, ("yes", "no", "maybe"), "Answer with yes, no or maybe."),
}
