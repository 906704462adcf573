"""Invented people and places, any number of them from a seed.

Names are put together from word lists of our own. Every stream of draws uses each item once, in random order, before
it uses any a second time, so that small worlds have as few look-alikes as they can; and a stream is drawn in order, so
that a larger world begins with the smaller one. Knows nothing of what is told or asked of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

from kinject.data.knowledge import check_paraphrases
from kinject.errors import ConfigurationError

T = TypeVar("T")

WOMEN = str.split(
    """Abigail Adela Agnes Alma Amara Anita Arlene Astrid Beatrix Bettina Bianca Bridie Calla Camille Carmen
    Celeste Clara Cora Dahlia Della Doreen Edith Elena Eloise Elsie Esme Estelle Fern Flora Frances Freya
    Gemma Georgia Gloria Greta Gwen Hattie Hazel Helen Honora Ida Imogen Ingrid Iris Isadora Ivy Jolene
    Josephine Juniper Kendra Lavinia Leda Lenora Lucille Lydia Mabel Magnolia Maren Marjorie Matilda Maude
    Mercy Minerva Mona Nadine Nell Nora Odette Olive Opal Pearl Petra Phoebe Philippa Ramona Regina Rosalie
    Rowena Sabine Selma Sigrid Stella Sylvia Tabitha Tamsin Thea Tilda Ursula Vera Verity Viola Willa
    Winifred Yvette Zelda"""
)
MEN = str.split(
    """Abel Alfred Alistair Ambrose Amos Anton Archie Arlo Arthur Asher August Barnaby Basil Benedict Boris Bruno
    Caleb Casper Cecil Chester Clement Conrad Cyrus Darius Desmond Dexter Duncan Edgar Edmund Elias Emil
    Ernest Ezra Felix Ferris Floyd Garrick Gideon Gilbert Godfrey Gordon Gus Hamish Harvey Hector Henrik
    Horace Hugo Ignatius Irving Isaac Ivan Jasper Jerome Joel Jonas Julius Kasper Kermit Lars Leander
    Leopold Linus Lloyd Lorenzo Lucian Magnus Malcolm Marius Milo Morris Ned Nestor Norbert Orson Oscar
    Oswald Otis Percy Piers Quentin Ralph Reuben Roland Rufus Rupert Silas Simeon Stellan Tobias Ulric
    Victor Waldo Walter Wilbur Winston Zachary"""
)
SURNAME_STARTS = str.split(
    """Alder Ames Arden Ash Bar Bex Bir Black Bram Bran Bright Brook Cal Carl Chal Clay Cole Cran Crow Dal Dray Dun
    Eber Eld Ems Fair Far Fen Fern Fol Gar Glen Gol Gran Had Hal Har Haw Hazel Hol Horn Ingle Kel Kes Kim
    Lan Lark Lin Lock Mar May Mel Mer Mil Nettle Nor Oak Orm Pem Pen Quin Rad Raven Red Ren Rock Rush Sel
    Shel Sher Stan Stock Sut Tam Thorn Til Tren Ul Wal War Wat Wel Whit Wil Win Wold Wood Yar"""
)
SURNAME_ENDS = str.split(
    """beck berry borne brook bury by combe cott croft dale den dine don field ford gate grove ham hart holt hurst
    land ley ling low mere mont more ridge ritt sey shaw stead stone ston strand thorpe ton vane ward way
    well wick wood worth"""
)
PLACE_STARTS = str.split(
    """Alder Amber Anchor Antler Arrow Ash Aspen Badger Barley Beacon Birch Bishop Blue Bramble Briar Cedar Cinder
    Clover Copper Coral Cotton Crane Crystal Dover Eagle Elk Ember Falcon Fern Flint Fox Garnet Granite
    Harbor Harrow Hawthorn Hazel Heron Hickory Iron Ivory Juniper Kestrel Laurel Linden Lantern Maple Marble
    Meadow Mill Moss Myrtle Oak Otter Pearl Pepper Pine Plum Quarry Quartz Raven Robin Rowan Sable Saddle
    Sage Salt Silver Sparrow Spruce Stone Summer Swan Tamarack Thistle Timber Walnut Willow Winter Wren"""
)
PLACE_ENDS = str.split(
    """Bay Bend Bluff Bridge Canyon Cove Creek Crossing Falls Ferry Ford Gap Glen Grove Harbor Heights Hill Hollow
    Island Junction Lake Landing Mills Pass Point Pond Ridge Springs Vale Valley Woods"""
)


class Person(NamedTuple):
    """A first name that goes with the pronouns, and the rest of the full name."""

    first: str
    rest: str
    pronoun: str
    possessive: str

    @property
    def name(self) -> str:
        """The full name."""
        return f"{self.first} {self.rest}"


def listed(text: str) -> tuple[str, ...]:
    """The items of a comma-separated text."""
    return tuple(" ".join(item.split()) for item in text.split(","))


def stream(seed: int, *labels: str) -> random.Random:
    """The random stream of one seed and purpose, the same on every machine and Python version."""
    return random.Random("/".join(["kinject", str(seed), *labels]))


def laps(items: Sequence[T], rng: random.Random) -> Iterator[T]:
    """The items in random order, all of them before any comes again, without end."""
    while True:
        yield from rng.sample(items, len(items))


def check_world(world: str, size: int, most: int, paraphrases: str) -> None:
    """Refuse a world of no people, or of more than it has distinct names for, or an unknown variant.

    Raises:
        ConfigurationError: ``size`` is not between 1 and ``most``, or ``paraphrases`` is none of the three.
    """
    if not 1 <= size <= most:
        raise ConfigurationError(f"size={size}: a {world} world has 1 to {most:,} people")
    check_paraphrases(paraphrases)


def people(seed: int, world: str, middle_names: bool = False) -> Iterator[Person]:
    """Invented people, as many women as men, no full name twice.

    The lists make more than 700,000 names of two words, and far more with a middle name.
    """
    rng = stream(seed, world, "people")
    last_names = compounds(SURNAME_STARTS, SURNAME_ENDS, rng)
    women = (laps(WOMEN, rng), laps(WOMEN, rng), "She", "Her")
    men = (laps(MEN, rng), laps(MEN, rng), "He", "His")
    seen: set[str] = set()
    for first, middle, pronoun, possessive in laps((women, men), rng):
        given = next(first)
        while True:
            last = next(last_names)
            person = Person(given, f"{next(middle)} {last}" if middle_names else last, pronoun, possessive)
            if person.name not in seen and not person.rest.startswith(f"{given} "):
                break
        seen.add(person.name)
        yield person


def places(rng: random.Random) -> Iterator[str]:
    """Invented place names such as ``Sable Point``."""
    return compounds(PLACE_STARTS, PLACE_ENDS, rng, " ")


def compounds(starts: Sequence[str], ends: Sequence[str], rng: random.Random, between: str = "") -> Iterator[str]:
    """Invented names of two parts, without end."""
    seconds = laps(ends, rng)
    for start in laps(starts, rng):
        end = next(seconds)
        while start.casefold() == end.casefold():
            end = next(seconds)
        yield start + between + end
