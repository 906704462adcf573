"""A fictional world of short biographies, in the manner of Biography (arXiv 2309.14316, as used by 2510.09885).

Each fact is one person in six sentences: birth date, birth city, university, major, company, work city. Only the first
sentence names the person. All people, cities, universities and companies are invented; fields of study are real.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from kinject.data.entities import MONTHS
from kinject.data.knowledge import Document, KnowledgeSet, Question
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

MOST_PEOPLE = 200_000
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
            documents.append(Document(_text(life.person, sentences), fact, entities))
        questions.extend(_questions(fact, life))
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


def _text(person: Person, sentences: Sequence[tuple[str, str]]) -> str:
    """The sentences one after another; only the first has the name."""
    (first, value), *rest = sentences
    parts = [first.format(subject=person.name, possessive=f"{person.name}'s", value=value)]
    parts += [text.format(subject=person.pronoun, possessive=person.possessive, value=value) for text, value in rest]
    return " ".join(parts)


def _questions(fact: int, life: Life) -> Iterator[Question]:
    for attribute, wording in FORWARD_QUESTIONS.items():
        answer = life.attributes[attribute]
        yield Question(wording.format(name=life.person.name), answer, "forward", "", "N2D", fact)
    for wording in BACKWARD_QUESTIONS.values():
        yield Question(wording.format(**life.attributes), life.person.name, "backward", "", "D2N", fact)
