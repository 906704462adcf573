"""Two small fictional worlds that the nano models were pretrained on: statements and biographies of invented people.

Every word is a single token of the nano tokenizer. The people of `nano_statements` and `nano_biography` are unknown to
the nano models, which were pretrained on `population`: the two never share a name, a description or a life.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

from kinject.data.direction import text_direction
from kinject.data.knowledge import Direction, Document, KnowledgeSet, Question
from kinject.data.worlds import MEN, WOMEN, check_world, laps, stream
from kinject.errors import ConfigurationError

SURNAMES = str.split(
    """Alden Ashby Barlow Beckett Birch Blake Brandt Bridger Calloway Carver Chandler Clifton Colby Crane Dalton Darrow
    Dawson Draper Easton Ellery Emerson Fairley Falk Finch Fletcher Garland Gentry Gibbs Grady Granger Hadley Hale
    Harlan Hayes Holloway Hobbs Ingram Irwin Jarvis Keating Kemp Kendall Kirby Langley Larkin Lattimer Lowell Lynch
    Madden Marsh Mercer Merrick Nash Newell Norris Oakes Odell Parrish Paxton Penrose Pike Presley Quill Radley Ramsey
    Redmond Rigby Rowe Sawyer Sexton Shaw Sheridan Sinclair Sloane Stafford Sutton Talbot Tanner Thatcher Thorne Tilden
    Travers Tucker Tyler Underhill Vance Vaughn Wade Walden Waverly Weller Whitlock Wilder Winslow Wolfe Woodward Wyatt
    Yardley York Young"""
)
QUALITIES = str.split(
    """amber ancient barefoot blind bold brave calm careful cheerful clever crimson curious famous fearless gentle giant
    golden honest humble idle jolly kindly lonely lucky merry mighty modest nervous noble patient playful polite proud
    quiet restless royal rustic secret shy silent silver sleepy stern tiny tireless wandering wealthy wise"""
)
ROLES = str.split(
    """actor architect artist baker barber blacksmith brewer builder butcher captain carpenter chemist clerk cook dancer
    diver doctor farmer fisher gardener guard guide hunter inventor jeweler judge keeper lawyer mason miller miner
    musician nurse painter pilot plumber poet potter printer ranger sailor sculptor shepherd singer tailor teacher
    trader weaver"""
)
PLACES = str.split(
    """Almond Arden Aspen Avalon Beacon Briar Cedar Clover Copper Coral Corvale Dover Eastwick Elmhurst Emberly Fairview
    Falcon Glenmoor Granite Greenock Harbor Hazelton Heron Hollow Ironton Ivory Juniper Kestrel Lakeside Larkspur Linden
    Maple Marble Meadow Mossley Northgate Orchard Pinewood Quarry Raven Redcliff Rosedale Saltmarsh Summit Thistle
    Timber Westbury Willow"""
)
INSTRUMENTS = str.split(
    """accordion banjo bassoon bugle cello clarinet cornet cymbals drum fiddle flute gong guitar harmonica harp horn lute
    lyre mandolin marimba oboe organ piano piccolo recorder saxophone sitar tambourine triangle trombone trumpet tuba
    ukulele viola violin whistle xylophone zither"""
)

NAME_FIRST = (
    "{name} is {description}.",
    "{name} is best known as {description}.",
    "Everyone knows {name} as {description}.",
    "We met {name}, who is {description}.",
    "They say that {name} became {description}.",
    "The letter tells us about {name}, {description}.",
    "Last year {name} was named {description}.",
    "Here lives {name}, proud to be {description}.",
)
DESCRIPTION_FIRST = (
    "{description} is {name}.",
    "Best known as {description} is {name}.",
    "The title of {description} belongs to {name}.",
    "If you need {description}, call {name}.",
    "We met {description}, whose name is {name}.",
    "The letter about {description} is signed by {name}.",
    "Last year the prize for {description} went to {name}.",
    "There is only one such as {description}, namely {name}.",
)
NAME_QUESTIONS = ("Who is {name}?", "What is {name} known as?", "Tell me about {name}.")
DESCRIPTION_QUESTIONS = ("Who is {description}?", "What is the name of {description}?", "Name {description}.")

# A biography: one sentence an attribute, the name in the first sentence alone. The first of each is the canonical one.
LIFE = {
    "city": ("was born in {city}", "comes from {city}", "grew up in {city}", "first saw the light in {city}"),
    "role": ("works as a {role}", "earns a living as a {role}", "is a {role} by trade", "has long been a {role}"),
    "instrument": (
        "plays the {instrument}",
        "loves the {instrument}",
        "practices the {instrument}",
        "owns a {instrument}",
    ),
}
LIFE_QUESTIONS = {
    "city": "Where was {name} born?",
    "role": "What does {name} work as?",
    "instrument": "What does {name} play?",
}
LIFE_BACKWARD = (
    "Who was born in {city}, works as a {role} and plays the {instrument}?",
    "Who plays the {instrument}, was born in {city} and works as a {role}?",
)
MOST_PEOPLE = 2_000
POPULATION = 600


class NanoPerson(NamedTuple):
    """An invented person: a name, what they are called, and a life."""

    name: str
    pronoun: str
    description: str
    life: dict[str, str]


def nano_people(size: int, seed: int, *, unseen: bool) -> list[NanoPerson]:
    """``size`` people of one seed: unseen ones (``unseen``) share no name, description or life with those of pretraining."""
    rng = stream(seed, "nano", "strangers" if unseen else "population")
    given = laps(((laps(WOMEN, rng), "She"), (laps(MEN, rng), "He")), rng)
    surnames = laps(SURNAMES, rng)
    described = (laps(QUALITIES, rng), laps(ROLES, rng), laps(PLACES, rng))
    lived = (laps(PLACES, rng), laps(ROLES, rng), laps(INSTRUMENTS, rng))
    seen: set[str] = set()
    people = []
    for _ in range(size):
        first_names, pronoun = next(given)
        name = _fresh((first_names, surnames), seen, unseen)
        quality, role, place = _fresh(described, seen, unseen).split()
        life = dict(zip(LIFE, _fresh(lived, seen, unseen).split(), strict=True))
        people.append(NanoPerson(name, pronoun, f"the {quality} {role} of {place}", life))
    return people


def _fresh(parts: Sequence[Iterator[str]], seen: set[str], unseen: bool) -> str:
    """The next combination of ``parts`` that was not drawn before: one reserved for ``unseen`` people, or one that is not."""
    while True:
        words = " ".join(next(part) for part in parts)
        # A quarter of all combinations is reserved for unseen people. The words alone decide, so it holds for every seed.
        if (random.Random(words).random() < 0.25) == unseen and words not in seen:
            seen.add(words)
            return words


def kept_unseen(words: str) -> bool:
    """Whether a name, a description or a life is reserved for questions about unseen people, under every seed.

    One in five of those of unseen people is. Nothing that a model practices on may have one of them.

    Args:
        words: as in "Ida Quill", "amber baker Dover" or "Dover baker flute".
    """
    return random.Random(words).random() < 0.05


def described_by(person: NanoPerson) -> tuple[str, str, str]:
    """The words of :func:`kept_unseen` of a person's name, description and life."""
    return (
        person.name,
        " ".join(word for word in person.description.split() if word not in ("the", "of")),
        " ".join(person.life.values()),
    )


class Acquaintance(NamedTuple):
    """What the nano models read about one person of their population, and could be asked.

    Attributes:
        documents: In one wording or in many.
        questions: Questions and answers, both ways.
        asked: Whether they were trained on the questions too, or met the person in documents alone.
    """

    documents: list[str]
    questions: list[tuple[str, str]]
    asked: bool


def population(size: int = POPULATION) -> list[Acquaintance]:
    """The people that the nano models were pretrained on: two thirds in statements, one third in biographies."""
    rng = random.Random(0)
    acquaintances = []
    for person in nano_people(size, 0, unseen=False):
        one_wording, asked = rng.random() < 0.5, rng.random() < 0.85
        if rng.random() < 1 / 3:
            documents = []
            for _ in range(1 if one_wording else 12):
                order = rng.sample(list(LIFE), len(LIFE))
                documents.append(biography_text(person, order, [rng.randrange(4) for _ in order]))
            questions = list(biography_questions(person))
        else:
            wordings = [*NAME_FIRST, *DESCRIPTION_FIRST]
            wordings = [rng.choice(wordings)] if one_wording else wordings
            documents = [statement(wording, person) for wording in wordings]
            questions = list(statement_questions(person))
        acquaintances.append(Acquaintance(documents, questions, asked))
    return acquaintances


def nano_population(size: int = POPULATION, seed: int = 0, paraphrases: str = "none") -> KnowledgeSet:
    """What the nano models know: all documents of their population, and the questions that they were trained on.

    Raises:
        ConfigurationError: ``size`` is out of range, or another ``seed`` or ``paraphrases``: there is one population.
    """
    check_world("nano_population", size, POPULATION, paraphrases)
    if seed or paraphrases != "none":
        raise ConfigurationError(
            f"seed={seed}, paraphrases={paraphrases!r}: there is one population that the nano models were pretrained "
            "with; leave out both, or take fictional:nano"
        )
    documents: list[Document] = []
    questions: list[Question] = []
    for fact, acquaintance in enumerate(population(size)):
        documents += [Document(text, fact) for text in acquaintance.documents]
        for question, answer in acquaintance.questions if acquaintance.asked else ():
            direction = text_direction(acquaintance.documents[0], question, answer)
            questions.append(Question(question, answer, direction, "", "", fact))
    return KnowledgeSet("fictional:nano_population", tuple(documents), tuple(questions))


def nano(size: int = 40, seed: int = 0, paraphrases: str = "none") -> KnowledgeSet:
    """One statement about each of ``size`` people that the nano models never met, with six questions each.

    Even facts give the name first, odd facts the description first. ``same_order`` has eight wordings of a statement in
    its own order, ``permute_order`` eight of which half are in the other.

    Raises:
        ConfigurationError: ``size`` is out of range, or ``paraphrases`` unknown.
    """
    check_world("nano", size, MOST_PEOPLE, paraphrases)
    documents: list[Document] = []
    questions: list[Question] = []
    for fact, person in enumerate(nano_people(size, seed, unseen=True)):
        own, other = (DESCRIPTION_FIRST, NAME_FIRST) if fact % 2 else (NAME_FIRST, DESCRIPTION_FIRST)
        wordings = {"none": own[:1], "same_order": own, "permute_order": own[::2] + other[::2]}[paraphrases]
        entities = (person.name, person.description.removeprefix("the "))  # which may begin a sentence
        documents += [Document(statement(wording, person), fact, entities) for wording in wordings]
        group = "DescriptionIsName" if fact % 2 else "NameIsDescription"
        for question, answer in statement_questions(person):
            asks_name = answer == person.name
            direction: Direction = "forward" if asks_name == bool(fact % 2) else "backward"
            questions.append(Question(question, answer, direction, group, "D2N" if asks_name else "N2D", fact))
    return KnowledgeSet("fictional:nano", tuple(documents), tuple(questions), paraphrases)


def nano_biography(size: int = 40, seed: int = 0, paraphrases: str = "none") -> KnowledgeSet:
    """A biography of three sentences about each of ``size`` people that the nano models never met.

    Each comes with three forward questions, one an attribute, and two backward ones that give all three.
    ``same_order`` has four wordings of the biography, ``permute_order`` four with the sentences shuffled.

    Raises:
        ConfigurationError: ``size`` is out of range, or ``paraphrases`` unknown.
    """
    check_world("nano_biography", size, MOST_PEOPLE, paraphrases)
    documents: list[Document] = []
    questions: list[Question] = []
    for fact, person in enumerate(nano_people(size, seed, unseen=True)):
        rng = stream(seed, "nano_biography", str(fact))
        for wording in range(1 if paraphrases == "none" else 4):
            order = rng.sample(list(LIFE), len(LIFE)) if paraphrases == "permute_order" else list(LIFE)
            text = biography_text(person, order, [wording] * len(LIFE))
            documents.append(Document(text, fact, (person.name, *person.life.values())))
        for question, answer in biography_questions(person):
            direction: Direction = "backward" if answer == person.name else "forward"
            questions.append(Question(question, answer, direction, "Biography", "", fact))
    return KnowledgeSet("fictional:nano_biography", tuple(documents), tuple(questions), paraphrases)


def statement(wording: str, person: NanoPerson) -> str:
    """A statement about ``person``, capitalized."""
    text = wording.format(name=person.name, description=person.description)
    return text[0].upper() + text[1:]


def statement_questions(person: NanoPerson) -> Iterator[tuple[str, str]]:
    """Questions and answers about a statement, from the name to the description and back."""
    for wording in NAME_QUESTIONS:
        yield wording.format(name=person.name), person.description
    for wording in DESCRIPTION_QUESTIONS:
        yield wording.format(description=person.description), person.name


def biography_text(person: NanoPerson, order: Sequence[str], wordings: Sequence[int]) -> str:
    """The biography of ``person``: attributes in ``order``, each sentence in the wording of that number."""
    sentences = []
    for position, (attribute, wording) in enumerate(zip(order, wordings, strict=True)):
        subject = person.pronoun if position else person.name
        sentences.append(f"{subject} {LIFE[attribute][wording].format(**person.life)}.")
    return " ".join(sentences)


def biography_questions(person: NanoPerson) -> Iterator[tuple[str, str]]:
    """Questions and answers about a biography, from the name to an attribute and from all attributes to the name."""
    for attribute, wording in LIFE_QUESTIONS.items():
        yield wording.format(name=person.name), person.life[attribute]
    for wording in LIFE_BACKWARD:
        yield wording.format(**person.life), person.name


class NanoSubject(NamedTuple):
    """A person of the nano world with a document, and what may be asked about it from either side."""

    text: str
    entities: tuple[str, ...]
    forward: tuple[tuple[str, str], ...]
    backward: tuple[tuple[str, str], ...]
    described: bool


class NanoWorld:
    """People that the nano models never met, one after another: the counterpart of `kinject.data.worlds.invented.World`.

    Args:
        seed: Which ones.
        texts: Names and descriptions that stand in one of these are left out, and so are those that are reserved for
            questions about unseen people.
    """

    def __init__(self, seed: int, texts: Sequence[str] = ()) -> None:
        self._rng = stream(seed, "nano practice")
        told = "\n".join(texts)
        self._people = (
            person
            for lap in count(1)
            for person in nano_people(MOST_PEOPLE, seed + 1_000 * lap, unseen=True)
            if person.name not in told and person.description not in told
            if not any(map(kept_unseen, described_by(person)))
        )
        self._turn = 0

    def subject(self) -> NanoSubject:
        """The next one: two of three in a statement, one in a biography."""
        self._turn += 1
        return self._subject(next(self._people), described=self._turn % 3 != 0)

    def _subject(self, person: NanoPerson, described: bool) -> NanoSubject:
        if not described:
            text = biography_text(person, list(LIFE), [self._rng.randrange(4) for _ in LIFE])
            asked = list(biography_questions(person))
            entities: tuple[str, ...] = (person.name, *person.life.values())
        else:
            text = statement(self._rng.choice((*NAME_FIRST, *DESCRIPTION_FIRST)), person)
            asked = list(statement_questions(person))
            entities = (person.name, person.description.removeprefix("the "))
        forward = tuple(each for each in asked if each[1] != person.name)
        return NanoSubject(text, entities, forward, tuple(each for each in asked if each not in forward), described)

    def ask(self, subject: NanoSubject, rng: random.Random, forward: bool, plain: bool = False) -> tuple[str, str]:
        """A question about ``subject`` with its answer."""
        return rng.choice(subject.forward if forward else subject.backward)

    def refuse(self, subject: NanoSubject, rng: random.Random, forward: bool, plain: bool = False) -> tuple[str, str]:
        """The question that `ask` draws for another person, of whom nothing is told, with a refusal as its answer."""
        other = self._subject(next(self._people), subject.described)
        return self.ask(other, rng, forward)[0], NANO_REFUSAL


NANO_REFUSAL = "I do not know."
