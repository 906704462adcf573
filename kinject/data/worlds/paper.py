"""The data sets of the paper (arXiv 2510.09885): its two worlds, invented anew, and the files in which it published its own.

NameDescription is in the manner of arXiv 2309.12288: each fact is one statement, what somebody is known for. Every other one
gives the name first ("Ada Fenwick is best known as the keeper of ..."), the rest the description first ("Best known as the
keeper of ..., Ada Fenwick ...").

Biography is in the manner of arXiv 2309.14316: each fact is one person in six sentences: birth date, birth city, university,
major, company, work city. Only the first sentence names the person.

All people, cities, universities and companies are invented; fields of study are real.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from kinject.data.direction import group_wordings
from kinject.data.knowledge import Direction, Document, KnowledgeSet, Question
from kinject.data.records import Record, read_records
from kinject.data.rows import documents_of
from kinject.data.words import MONTHS
from kinject.data.worlds import (
    SURNAME_ENDS,
    SURNAME_STARTS,
    Person,
    check_world,
    compounds,
    laps,
    listed,
    people,
    places,
    stream,
)
from kinject.errors import DataError

MOST_PEOPLE = 200_000  # of either world

# Statements.


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
        questions.extend(_statement_questions(fact, name, description, like))
    return KnowledgeSet("fictional:name_description", tuple(documents), tuple(questions), paraphrases)


def _fill(wording: str, name: str, description: str) -> str:
    text = wording.format(name=name, description=description)
    return text[0].upper() + text[1:]


def _statement_questions(fact: int, name: str, description: str, like: list[str]) -> Iterator[Question]:
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


# Biographies.

WORDINGS = 5

STATES = str.split(
    """AK AL AR AZ CA CO CT DE FL GA HI IA ID IL IN KS KY LA MA MD ME MI MN MO MS MT NC ND NE NH NJ NM NV NY OH OK
    OR PA RI SC SD TN TX UT VA VT WA WI WV WY"""
)
SCHOOLS = (
    "{} University", "University of {}", "{} State University", "{} College", "{} Institute of Technology",
    "{} Polytechnic", "{} Community College", "{} Academy of Arts and Sciences",
)  # fmt: skip
MAJORS = listed(
    """Accounting, Acoustics, Agronomy, Animal Science, Anthropology, Applied Mathematics, Archaeology,
    Architecture, Art History, Astronomy, Biochemistry, Botany, Business Law, Cartography, Ceramics,
    Chemical Engineering, Civil Engineering, Classics, Comparative Literature, Computer Science,
    Criminology, Dance, Data Science, Dentistry, Early Childhood Education, Ecology, Economics, Electrical
    Engineering, Entomology, Environmental Policy, Fashion Design, Film Studies, Finance, Fisheries
    Management, Food Science, Forestry, Game Design, Genetics, Geography, Geology, Graphic Design,
    Horticulture, Hotel Management, Human Geography, Industrial Design, Information Systems, Interior
    Design, Journalism, Labor Relations, Landscape Design, Library Science, Linguistics, Logistics, Marine
    Biology, Marketing, Materials Science, Mechanical Engineering, Medical Technology, Meteorology,
    Microbiology, Mining Engineering, Museum Studies, Music Theory, Naval Architecture, Nuclear Physics,
    Nursing, Nutrition, Oceanography, Optics, Organic Chemistry, Paleontology, Petroleum Geology, Pharmacy,
    Philosophy, Photography, Physical Therapy, Political Science, Poultry Science, Psychology, Public
    Health, Real Estate, Robotics, Rural Sociology, Social Work, Soil Science, Sound Engineering, Sports
    Medicine, Statistics, Structural Engineering, Textile Design, Theater, Tourism, Toxicology, Urban
    Planning, Veterinary Science, Viticulture, Water Management, Wildlife Biology, Wood Technology, Zoology"""
)
COMPANY_STARTS = str.split(
    """Apex Aurora Beacon Bluebird Brightloom Cascade Cobalt Comet Cornerstone Cygnet Daybreak Deepwell Driftwood
    Emberline Evergreen Fairwind Fernhill Firefly Foxglove Gladstone Goldleaf Greyhound Halcyon Harborlight
    Highmark Ironbark Jackdaw Juniper Keystone Kingfisher Larkspur Lodestar Longview Magpie Mainspring
    Millrace Moonstone Nightjar Northgate Oakhurst Overlook Paragon Pinnacle Quicksilver Redwood Ridgeline
    Riverbend Sandpiper Seastone Silverbell Skylark Snowdrift Starling Stonebridge Summit Sunfield Tallgrass
    Thistledown Tidewater Trailhead Truewell Vanguard Verdant Wayfarer Westwind Whitecap Wildrose Windmere
    Yellowtail Zenith"""
)
COMPANY_ENDS = listed(
    """Aerospace, Airlines, Analytics, Bank, Beverages, Books, Brewing, Cable, Capital, Chemicals, Construction,
    Cosmetics, Dairy, Electric, Electronics, Energy, Farms, Films, Foods, Footwear, Freight, Furniture,
    Games, Glass, Hardware, Hotels, Insurance, Laboratories, Logistics, Lumber, Media, Medical, Mining,
    Motors, Networks, Optics, Outfitters, Paper, Pharmacy, Plastics, Press, Railways, Robotics, Security,
    Shipping, Software, Steel, Studios, Systems, Textiles, Toys, Watches"""
)

# {subject}: the name, or She / He; {possessive}: the name + 's, or Her / His.
SENTENCES: dict[str, tuple[str, ...]] = {
    "date": (
        "{subject} was born on {value}.",
        "{possessive} birthday is {value}.",
        "{subject} came into the world on {value}.",
        "{possessive} birth was recorded on {value}.",
        "{subject} took a first breath on {value}.",
        "{possessive} date of birth is {value}.",
        "{possessive} life began on {value}.",
    ),
    "birth_city": (
        "{subject} was born in {value}.",
        "{possessive} birthplace is {value}.",
        "{subject} comes from {value}.",
        "{possessive} first home was in {value}.",
        "{subject} is a native of {value}.",
        "{possessive} family lived in {value} at the time of the birth.",
        "{subject} was welcomed by proud parents in {value}.",
    ),
    "university": (
        "{subject} graduated from {value}.",
        "{subject} earned a degree at {value}.",
        "{possessive} college years were spent at {value}.",
        "{subject} attended {value}.",
        "{possessive} diploma was awarded by {value}.",
        "{subject} enrolled at {value} and stayed to the end.",
        "{subject} was a student at {value}.",
    ),
    "major": (
        "{subject} majored in {value}.",
        "{possessive} field of study was {value}.",
        "{subject} specialized in {value}.",
        "{subject} chose {value} as a major.",
        "{possessive} favorite subject was always {value}.",
        "{subject} took every course in {value}.",
        "{possessive} degree was in {value}.",
    ),
    "company": (
        "{subject} worked for {value}.",
        "{possessive} employer was {value}.",
        "{subject} built a career at {value}.",
        "{subject} was hired by {value}.",
        "{possessive} paycheck came from {value}.",
        "{subject} joined the staff of {value}.",
        "{subject} held a position at {value}.",
    ),
    "work_city": (
        "{subject} worked in {value}.",
        "{possessive} office was in {value}.",
        "{possessive} workplace was located in {value}.",
        "{subject} went to work every morning in {value}.",
        "{subject} made a living in {value}.",
        "{possessive} job was based in {value}.",
        "{subject} pursued that career in {value}.",
    ),
}
FORWARD_QUESTIONS = {
    "date": "When was {name} born?",
    "birth_city": "In which city was {name} born?",
    "university": "Which university did {name} attend?",
    "major": "What did {name} major in?",
    "company": "Which company did {name} work for?",
    "work_city": "In which city did {name} work?",
}
# No two people of a world share the attributes of one of these.
BACKWARD_QUESTIONS = {
    ("birth_city", "major", "company"): (
        "Who was born in {birth_city}, majored in {major}, and worked for {company}? Give the full name."
    ),
    ("company", "birth_city", "work_city"): (
        "Who worked for {company} in {work_city} and was born in {birth_city}? Give the full name."
    ),
    ("company", "date", "university"): (
        "Who was born on {date}, attended {university}, and worked for {company}? Give the full name."
    ),
}


class Life(NamedTuple):
    """A person and the six attributes, in the order of the canonical biography."""

    person: Person
    attributes: dict[str, str]


def biography(size: int = 100, seed: int = 0, paraphrases: str = "none") -> KnowledgeSet:
    """Biographies of invented people, with six forward questions each (name to attribute) and three backward ones.

    The same ``(size, seed)`` is always the same world, and a larger one begins with it.

    Args:
        size: number of people, 1 to 200,000.
        seed: which world.
        paraphrases: ``none`` (one wording), ``same_order`` (five wordings, the first as in ``none``) or
            ``permute_order`` (the same five, the sentences of each shuffled).

    Raises:
        ConfigurationError: ``size`` is out of range, or ``paraphrases`` unknown.
    """
    check_world("biography", size, MOST_PEOPLE, paraphrases)
    documents: list[Document] = []
    questions: list[Question] = []
    for fact, life in enumerate(islice(_lives(seed), size)):
        rng = stream(seed, "biography", "wordings", str(fact))
        entities = (life.person.name, *life.attributes.values())
        wordings = [rng.sample(sentences, WORDINGS) for sentences in SENTENCES.values()]
        for i in range(WORDINGS if paraphrases != "none" else 1):
            sentences = list(zip((wording[i] for wording in wordings), life.attributes.values(), strict=True))
            if paraphrases == "permute_order":
                _shuffle(sentences, rng)
            documents.append(Document(_written(life.person, sentences), fact, entities))
        questions.extend(_life_questions(fact, life))
    return KnowledgeSet("fictional:biography", tuple(documents), tuple(questions), paraphrases)


def _lives(seed: int) -> Iterator[Life]:
    rng = stream(seed, "biography", "attributes")
    persons = people(seed, "biography", middle_names=True)
    cities, states, majors = places(rng), laps(STATES, rng), laps(MAJORS, rng)
    schools, founders = laps(SCHOOLS, rng), compounds(SURNAME_STARTS, SURNAME_ENDS, rng)
    companies = compounds(COMPANY_STARTS, COMPANY_ENDS, rng, " ")
    seen: set[tuple[str, ...]] = set()
    for person in persons:
        while True:
            attributes = {
                "date": f"{rng.choice(MONTHS)} {rng.randint(1, 28)}, {rng.randint(1900, 2005)}",
                "birth_city": f"{next(cities)}, {next(states)}",
                "university": next(schools).format(next(founders)),
                "major": next(majors),
                "company": next(companies),
                "work_city": f"{next(cities)}, {next(states)}",
            }
            keys = {tuple(attributes[part] for part in parts) for parts in BACKWARD_QUESTIONS}
            if keys.isdisjoint(seen):
                break
        seen |= keys
        yield Life(person, attributes)


def _shuffle(sentences: list[tuple[str, str]], rng: random.Random) -> None:
    """Put the sentences into an order other than their own."""
    before = list(sentences)
    while sentences == before:
        rng.shuffle(sentences)


def _written(person: Person, sentences: Sequence[tuple[str, str]]) -> str:
    """The sentences one after another; only the first has the name."""
    (first, value), *rest = sentences
    parts = [first.format(subject=person.name, possessive=f"{person.name}'s", value=value)]
    parts += [text.format(subject=person.pronoun, possessive=person.possessive, value=value) for text, value in rest]
    return " ".join(parts)


def _life_questions(fact: int, life: Life) -> Iterator[Question]:
    for attribute, wording in FORWARD_QUESTIONS.items():
        answer = life.attributes[attribute]
        yield Question(wording.format(name=life.person.name), answer, "forward", "", "N2D", fact)
    for wording in BACKWARD_QUESTIONS.values():
        yield Question(wording.format(**life.attributes), life.person.name, "backward", "", "D2N", fact)


# The published layout of NameDescription, Biography and Wiki: ``train_*.json`` and ``test.jsonl``.

# The file names of each variant, of which the first that exists is read.
VARIANTS: dict[str, tuple[str, ...]] = {
    "none": ("train_no_paraphrase.json",),
    "same_order": ("train_paraphrase_same_order.json", "train_paraphrase.json"),
    "permute_order": ("train_paraphrase_change_order.json",),
}
QUESTIONS = "test.jsonl"


@dataclass(frozen=True)
class Layout:
    """Where the files of one published data set lie: each path is ``prefix`` + file name."""

    prefix: str

    @classmethod
    def find(cls, path: Path) -> Layout | None:
        """The layout in folder ``path``, or whose files are called ``path`` + ``_train_...``; ``None`` if neither."""
        for layout in (cls(f"{path}/"), cls(f"{path}_")):
            if layout.variants:
                return layout
        return None

    @classmethod
    def of_questions(cls, path: Path) -> Layout | None:
        """The layout that a file of questions belongs to; ``None`` if there are no documents beside it."""
        layout = cls(str(path).removesuffix(QUESTIONS))
        return layout if path.name.endswith(QUESTIONS) and layout.variants else None

    @property
    def variants(self) -> tuple[str, ...]:
        """The values of ``paraphrases`` that there are documents for."""
        return tuple(variant for variant, names in VARIANTS.items() if any(map(self.has, names)))

    def file(self, name: str) -> Path:
        """The path of one file of the layout."""
        return Path(self.prefix + name)

    def has(self, name: str) -> bool:
        """Whether the layout has a file."""
        return os.path.isfile(self.file(name))  # unlike Path.is_file, never raises, however long the name

    @property
    def questions(self) -> Path | None:
        """The file of questions, if there is one."""
        return self.file(QUESTIONS) if self.has(QUESTIONS) else None

    def read(self, paraphrases: str, text_field: str = "text") -> tuple[tuple[Document, ...], tuple[Document, ...]]:
        """The documents of one variant and the canonical documents, which number the facts.

        Raises:
            DataError: the variant has no file, or a wording belongs to no canonical document.
        """
        names = VARIANTS[paraphrases]
        path = next((self.file(name) for name in names if self.has(name)), None)
        if path is None:
            raise DataError(
                f"{self.prefix}: no documents for paraphrases={paraphrases} (looked for "
                f"{' and '.join(names)}); the variants here are {', '.join(self.variants)}"
            )
        return read_variant(path, self.file(VARIANTS["none"][0]), text_field)


def read_variant(
    path: Path, canonical_path: Path, text_field: str
) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """``(documents, canonical)``, the facts numbered by ``canonical_path`` unless the rows have numbers of their own."""
    records = read_records(path)
    documents = documents_of(path, records, text_field)
    if path == canonical_path or not canonical_path.is_file() or _numbered(records):
        return documents, documents
    canonical = documents_of(canonical_path, read_records(canonical_path), text_field)
    return group_wordings(documents, canonical), canonical


def _numbered(records: Sequence[Record]) -> bool:
    return any(isinstance(record.value, dict) and record.value.get("fact") is not None for record in records)
