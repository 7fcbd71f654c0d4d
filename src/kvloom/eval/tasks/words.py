"""Words, names and numbers that samples are built from."""

from __future__ import annotations

import random
import string
import uuid
from functools import cache
from itertools import product

from kvloom.eval.corpus.essays import lexicon


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words(
    """
    amber ancient azure blunt bold brave brisk broad bronze calm candid cheery civic clever coastal copious crimson
    crisp cubic curly dapper daring deft dense dusky eager early earnest elastic elegant fabled faint fancy fertile
    fierce floral fluent fragile frosty frugal gentle giddy gilded glossy golden graceful grand granular hasty hazel
    hidden hollow humble icy ideal idle indigo ivory jolly jovial keen lavish lemon level lilac limber lively lofty
    lucid lunar magenta mellow mighty minty misty modest mossy muted narrow nimble noble oblong opal orderly oval
    placid playful plucky polished polite primal prime proud pungent quaint quick radiant rapid rare regal robust
    rosy royal rugged russet rustic sandy scarlet serene shady shiny silent silver sleek slender solar solid spicy
    spruce stable stellar sturdy subtle sunny supple swift tacit tame tawny teal tepid tidal timely tiny tranquil
    upbeat urban valiant vast velvet verdant vivid wavy witty woolly zesty
    """
)

NOUNS = _words(
    """
    acorn alcove almond anchor anthem antler anvil apron arcade archer armchair atlas attic avenue badge badger
    balcony ballad bamboo banjo banner barley basil basin beacon beetle bellows biscuit blanket blossom bonnet
    boulder bouquet bracket bramble brook bugle bureau cabin cactus camera canary canoe canteen canvas canyon
    caravan cargo carpet cart castle cavern cedar cellist chalice chestnut chimney cinema circus citrus clarinet
    clover cobweb comet compass copper coral corridor cottage cradle crater crayon cricket crystal cushion cutlet
    cymbal dagger daisy dancer desert dolphin domino donkey drawer eagle easel elbow ember emerald engine envelope
    fabric falcon feather fern festival fiddle finch flagon flask flute forest fossil fountain freckle funnel gadget
    galaxy gallery gazelle geyser ginger glacier goblet gondola granite grotto guitar gully hamlet hammock harp
    hatchet hazelnut helmet hermit hornet iceberg igloo inkwell island jacket jasmine javelin jigsaw jungle juniper
    kayak kernel kettle kite ladle lagoon lantern lasso lattice lavender ledger lizard locket lotus lullaby magnet
    mammoth mandolin mango mantle marble marigold meadow medal melody meteor mirror mitten monsoon mosaic muffin
    mustard napkin nebula nectar noodle nugget nutmeg oasis oboe octopus olive onion opera orchid ostrich oyster
    paddle pagoda palette panther papaya parade parcel parsley pebble pelican pencil pepper petal pigment pillar
    pistachio planet plaza pocket pollen poppy porch prairie prism puddle pumpkin puzzle quartz quiver raccoon
    radish raft ravine ribbon riddle rocket saddle saffron satchel saucer scarf sculptor seagull shelter shuttle
    signet siren sketch sonnet spade sparrow sphinx spindle spiral sponge statue sunset swan syrup tablet tassel
    teapot temple thicket thimble thistle thunder timber toboggan token topaz torch trellis trumpet tulip tunnel
    turnip turtle umbrella valley vessel village violin vortex wagon walnut walrus willow window yogurt zebra
    zeppelin
    """
)

NAMES = _words(
    """
    Amelia Bruno Celeste Damian Elena Fabian Gloria Hector Imogen Jasper Keiko Lorenzo Mireille Nadia Omar Priya
    Quentin Rafael Selma Tobias Ursula Vincent Wanda Xavier Yusuf Zara Adrian Beatriz Carmen Dimitri Esther
    Francesca Gustavo Helena Isidore Jocelyn Kamil Leonie Malik Noemi
    """
)
"""First names. None occurs in the shipped corpus."""


@cache
def dictionary() -> tuple[str, ...]:
    """Distinct single words. Those of pairs come first: they are rarer, so they take more tokens, like RULER's."""
    return tuple(dict.fromkeys((*ADJECTIVES, *NOUNS, *lexicon().words)))


def pair(rng: random.Random) -> str:
    """A hyphenated adjective-noun pair."""
    return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"


def pairs(rng: random.Random, count: int) -> list[str]:
    """Distinct pairs."""
    return rng.sample([f"{adjective}-{noun}" for adjective, noun in product(ADJECTIVES, NOUNS)], count)


def digits(rng: random.Random, count: int) -> str:
    """A random number with ``count`` digits."""
    return str(rng.randrange(10 ** (count - 1), 10**count))


def letters(rng: random.Random, count: int) -> str:
    """Random upper-case letters."""
    return "".join(rng.choices(string.ascii_uppercase, k=count))


def random_uuid(rng: random.Random) -> str:
    """A random version 4 UUID."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
