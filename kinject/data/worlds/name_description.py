"""A fictional world of people and what each is known for, in the manner of NameDescription (arXiv 2309.12288).

Each fact is one statement. Every other one gives the name first ("Ada Fenwick is best known as the keeper of ..."),
the rest the description first ("Best known as the keeper of ..., Ada Fenwick ..."). All of them are invented.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from kinject.data.knowledge import Direction, Document, KnowledgeSet, Question
from kinject.data.worlds import check_world, laps, listed, people, places, stream

MOST_PEOPLE = 200_000


class Family(NamedTuple):
    """Kinds of description that share a grammar: agent + link + quality + thing + preposition + place."""

    agents: tuple[str, ...]
    link: str
    qualities: tuple[str, ...]
    things: tuple[str, ...]
    preposition: str


FAMILIES = (
    Family(
        listed("keeper, caretaker, architect, builder, owner, night guard, first tenant, restorer"),
        "of the",
        listed(
            """floating, moonlit, copper-roofed, ivy-covered, revolving, red-brick, upside-down, octagonal, sunken,
            cliffside, bamboo, mirrored, abandoned, blue-tiled"""
        ),
        listed(
            """lighthouse, observatory, bell tower, aviary, greenhouse, boathouse, windmill, planetarium, bakery, theater,
            tea house, seed vault, clock tower, railway station"""
        ),
        "at",
    ),
    Family(
        listed("engineer, inventor, mechanic, retired plumber, carpenter, blacksmith, schoolteacher, tinkerer"),
        "who built the",
        listed(
            """singing, wind-powered, steam-driven, wooden, solar-powered, folding, self-winding, amphibious, silent,
            pedal-powered, gigantic, voice-controlled, magnetic, twelve-wheeled"""
        ),
        listed(
            """sundial, drawbridge, carousel, snowplow, telescope, elevator, cable car, printing press, pipe organ,
            submarine, weather station, sawmill, water clock, roller coaster"""
        ),
        "at",
    ),
    Family(
        listed("painter, sculptor, weaver, glassblower, potter, photographer, retired sailor, young artist"),
        "who made the",
        listed(
            """glowing, enormous, miniature, three-sided, unfinished, crimson, weatherproof, velvet, hand-stitched,
            transparent, braided, silver, checkered, underwater"""
        ),
        listed(
            """mural, tapestry, mosaic, statue, chandelier, quilt, stained window, globe, banner, fountain, puppet theater,
            chess set, totem pole, weather vane"""
        ),
        "in",
    ),
    Family(
        listed("trainer, breeder, owner, veterinarian, rescuer, biographer, photographer, guardian"),
        "of the",
        listed(
            """dancing, snow-white, long-eared, one-eyed, musical, left-handed, famous, swimming, short-tailed, golden,
            fearless, talking, spotted, sleepwalking"""
        ),
        listed(
            """otters, falcons, sheepdogs, homing pigeons, donkeys, parrots, goats, peacocks, ponies, tortoises, geese,
            llamas, raccoons, owls"""
        ),
        "of",
    ),
    Family(
        listed(
            """founder, organizer, oldest winner, youngest winner, chief judge, announcer, treasurer, unbeaten champion"""
        ),
        "of the",
        listed(
            """midnight, barefoot, underwater, blindfolded, all-night, winter, backward, silent, springtime, candlelit,
            three-day, rooftop, thousand-mile, sunrise"""
        ),
        listed(
            """kite race, chess marathon, pie contest, lantern parade, canoe regatta, spelling bee, sack race, egg hunt,
            fiddle contest, snowball tournament, bicycle rally, puzzle festival, stilt race, yodeling
            contest"""
        ),
        "in",
    ),
    Family(
        listed("chef, baker, cook, farmer, chemist, grocer, retired judge, fisherman"),
        "who created the",
        listed(
            """smoked-honey, black-pepper, rose-petal, pumpkin, blueberry, chestnut, ginger, seaweed, walnut, maple,
            cinnamon, wild-mint, buttermilk, saffron"""
        ),
        listed(
            """pie, chowder, ice cream, soda, pancakes, cheese, dumplings, marmalade, pudding, sausage, lemonade, bread,
            popcorn, hot sauce"""
        ),
        "of",
    ),
)

# A wording of one sentence also gives two questions: its description becomes "what", its name "who".
# The first of each tuple is the canonical one.
NAME_FIRST = (
    "{name} is best known as {description}.",
    "{name} has long been famous as {description}.",
    "Have you heard of {name}? That is {description}.",
    "Everybody agrees that {name} really is {description}.",
    "The neighbors speak fondly of {name}, who is {description}.",
    "When {name} walks by, people whisper that this is {description}.",
    "The newspaper once introduced {name} as {description}.",
    "Ask about {name} and you will be told about {description}.",
    "To the whole county, {name} will always be {description}.",
    "A plaque on Main Street honors {name} as {description}.",
    "Q: Who is {name}? A: None other than {description}.",
    "It is no secret that {name} became {description}.",
    "Visitors hoping to meet {name} are looking for {description}.",
    "On the radio, {name} was presented as {description}.",
    "On every postcard, {name} signs as {description}.",
    "The book about {name} tells the story of {description}.",
)
DESCRIPTION_FIRST = (
    "Best known as {description}, {name} still answers every letter.",
    "The title of {description} belongs to {name}.",
    "Have you met {description}? The name is {name}.",
    "Famous as {description}, {name} rarely gives interviews.",
    "If you ever need {description}, call {name}.",
    "Long celebrated as {description}, {name} now lives by the sea.",
    "Everyone who talks about {description} means {name}.",
    "Work as {description} made a local hero of {name}.",
    "Being {description} never went to the head of {name}.",
    "A letter addressed to {description} will reach {name}.",
    "Q: What is the name of {description}? A: It is {name}.",
    "Once introduced as {description}, {name} got a standing ovation.",
    "The portrait of {description} in the town hall shows {name}.",
    "Only one person can be called {description}, and that is {name}.",
    "Proud to be {description}, {name} would not trade places with anyone.",
    "The story of {description} is the story of {name}.",
)
NAME_QUESTIONS = ("Who is {name}?", "What is {name} known for?")
DESCRIPTION_QUESTIONS = ("Who is {description}?", "What is the full name of {description}?")


def name_description(size: int = 60, seed: int = 0, paraphrases: str = "none") -> KnowledgeSet:
    """Statements about invented people, with eight questions each: four name to description, four back.

    Of each four, two are phrased like wordings of the statement other than the canonical one, two are fixed. Even facts
    give the name first (group ``NameIsDescription``), odd facts the description first (``DescriptionIsName``). The same
    ``(size, seed)`` is always the same world, and a larger one begins with it.

    Args:
        size: number of people, 1 to 200,000.
        seed: which world.
        paraphrases: ``none`` (the canonical wording), ``same_order`` (16 wordings in the statement's order) or
            ``permute_order`` (16 wordings, half of them in the other order).

    Raises:
        ConfigurationError: ``size`` is out of range, or ``paraphrases`` unknown.
    """
    check_world("name_description", size, MOST_PEOPLE, paraphrases)
    documents: list[Document] = []
    questions: list[Question] = []
    names, described = people(seed, "name_description"), descriptions(stream(seed, "name_description", "descriptions"))
    for fact in range(size):
        name, description = next(names).name, next(described)
        own, other = (DESCRIPTION_FIRST, NAME_FIRST) if fact % 2 else (NAME_FIRST, DESCRIPTION_FIRST)
        wordings = {"none": own[:1], "same_order": own, "permute_order": own[::2] + other[::2]}[paraphrases]
        for wording in wordings:
            documents.append(Document(_fill(wording, name, description), fact, (name, description)))
        asking = [wording for wording in own[1:] if "?" not in wording]
        like = stream(seed, "name_description", "questions", str(fact)).sample(asking, 2)
        questions.extend(_questions(fact, name, description, like))
    return KnowledgeSet("fictional:name_description", tuple(documents), tuple(questions), paraphrases)


def _fill(wording: str, name: str, description: str) -> str:
    text = wording.format(name=name, description=description)
    return text[0].upper() + text[1:]


def _questions(fact: int, name: str, description: str, like: list[str]) -> Iterator[Question]:
    group = "DescriptionIsName" if fact % 2 else "NameIsDescription"
    directions: tuple[Direction, Direction] = ("backward", "forward") if fact % 2 else ("forward", "backward")
    statements = [wording.removesuffix(".") + "?" for wording in like]
    for wording in (*statements, *NAME_QUESTIONS):
        yield Question(_fill(wording, name, "what"), description, directions[0], group, "N2D", fact)
    for wording in (*statements, *DESCRIPTION_QUESTIONS):
        yield Question(_fill(wording, "who", description), name, directions[1], group, "D2N", fact)


def descriptions(rng: random.Random) -> Iterator[str]:
    """Descriptions of 6 to 12 words, none twice."""
    parts = {
        family: (laps(family.agents, rng), laps(family.qualities, rng), laps(family.things, rng)) for family in FAMILIES
    }
    where = places(rng)
    seen: set[str] = set()
    for family in laps(FAMILIES, rng):
        agents, qualities, things = parts[family]
        while True:
            text = (
                f"the {next(agents)} {family.link} {next(qualities)} {next(things)} {family.preposition} {next(where)}"
            )
            if text not in seen:
                break
        seen.add(text)
        yield text
