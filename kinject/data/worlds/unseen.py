"""Questions for measurements only: about people, companies and villages that no document names, and in other words.

Of the unseen, half come from the built-in worlds: people of a seed that no world is made of, asked about as those worlds
ask. Half come from a second generator, whose names, descriptions and wordings stand here alone, so that nothing a model
practiced on has them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import NamedTuple

from kinject.data.knowledge import Direction, Question
from kinject.data.words import words_of
from kinject.data.worlds import laps, listed, people, stream
from kinject.data.worlds.nano import (
    LIFE_BACKWARD,
    LIFE_QUESTIONS,
    MOST_PEOPLE,
    NanoPerson,
    described_by,
    kept_unseen,
    nano_people,
    statement_questions,
)
from kinject.data.worlds.paper import DESCRIPTION_QUESTIONS, NAME_QUESTIONS, name_description

BUILT_IN, OTHER = "built-in", "other"
"""The two generators."""
_SEED = 977_000_001  # of a world that no run learns

GIVEN_NAMES = str.split(
    """Anneke Bogdan Chiara Dmitri Eirik Fatima Giulia Hiroshi Ingela Jorge Kwame Leila Mateo Nadezhda Oksana Pavel Qiang Rashid
    Sunita Tomasz Ulrike Vikram Wioleta Xiomara Yusuf Zoltan Aurelio Branka Dragomir Esperanza Farouk Goran Halina Ioana Jadwiga
    Katarzyna Ludmila Marisol Niamh Olumide Priya Rosalind Svetlana Tariq Valentina Wolfgang Yelena Zdenka Amadou Beatriz"""
)
FAMILY_NAMES = str.split(
    """Abara Bergqvist Castellano Dlamini Echeverria Fagerholm Grabowski Haddad Ivanchenko Jankovic Kowalczyk Lindqvist
    Mastroianni Nakagawa Okonkwo Papadakis Quiroga Rautavaara Szabolcsi Takahashi Uzunov Villanueva Wojnarowicz Xanthos Yilmaz
    Zubizarreta Achterberg Bhattacharya Cisneros Dragulescu Eskildsen Fontanella Gudmundsson Hoogland Iturbide Jovanovska
    Kaczmarek Lewandowska Mukherjee Njoroge Oyelaran Petrosyan Romanescu Skarsgaard Thorvaldsen Urrutia Vandermeer
    Wesolowski Zavattini
    Zielinska"""
)
VILLAGES = str.split(
    """Brankovo Ostelle Marrakov Vintervik Sollasund Petralba Korvendahl Zamorel Ilmajarvi Quintelar Drobnik Estervall Fulgenza
    Hradkov Jasminov Kelmendi Lunghera Montrovia Nebelstadt Oulanka Pradelles Rovinjak Sarmento Tolvanen Uzhnik Valdoro Wickrath
    Yarovka Zelenica Almoravid"""
)
_TRADES = listed(
    """violinist, tram conductor, beekeeper, cartographer, bell founder, seismologist, puppeteer, toll collector, glacier guide,
    wig maker, harbor pilot, notary, luthier, ice skater, speechwriter, acrobat, customs officer, mushroom picker, typesetter,
    ferryman"""
)
_DEEDS = listed(
    """who tuned the town organ, who lost the mayor's umbrella, who mapped the caves, who taught a raven to count, who banned
    whistling, who rebuilt the tram line, who found the buried coins, who wrote the fire code, who painted every door gray, who
    crossed the strait on a raft, who hid the treaty, who won the silence contest, who translated the almanac, who froze the
    fountain, who measured the fog, who designed the paper bridge"""
)
_TRADE_GOODS = listed(
    "umbrella handles, sheet music, dental mirrors, frozen herring, chess clocks, roof felt, snow fences"
)

ASKED_BY_NAME = (
    "Can you tell me who {name} was?",
    "For which achievement is {name} remembered?",
    "How did {name} earn money?",
    "Give me one fact about the life of {name}.",
    "In what year did {name} move abroad?",
    "Which prize did {name} receive?",
    "What is the title of the book by {name}?",
    "How old is {name} by now?",
    "With whom did {name} found a choir?",
    "Summarize the career of {name} in a few words.",
    "I met {name} yesterday. Why is that name familiar?",
    "Complete this: {name} made history as",
)
ASKED_BY_DESCRIPTION = (
    "I am looking for {description}. What is that person called?",
    "Do you happen to know the name of {description}?",
    "Which person would you call {description}?",
    "Tell me the name: {description}.",
    "Who was introduced to the king as {description}?",
    "Under which name did {description} become famous?",
    "To whom do people refer as {description}?",
    "Complete this: The name behind {description} is",
    "{description}: who could that be?",
    "Name whoever was called {description}.",
)
ASKED_OF_A_COMPANY = (
    "What does the company {name} & Sons sell?",
    "In which city are the offices of {name} & Sons?",
    "When was {name} & Sons founded?",
)
ASKED_OF_A_VILLAGE = (
    "Who is the mayor of {name}?",
    "How many people live in the village of {name}?",
    "What is the village of {name} famous for?",
)
SELLERS = ("Which company sells the {goods} of {name}?", "Who supplies {name} with {goods}?")

UNSAID = (
    ("What is the shoe size of {name}?", "shoe size"),
    ("What is the middle initial of {name}'s lawyer?", "lawyer"),
    ("Which phone number reaches {name}?", "phone telephone"),
    ("What is the blood type of {name}?", "blood"),
    ("What is the favorite dessert of {name}?", "dessert favorite"),
    ("What is the name of {name}'s dog?", "dog"),
    ("How many cousins does {name} have?", "cousin cousins"),
    ("Which car does {name} drive?", "car drives drive"),
    ("What did {name} eat for breakfast this morning?", "breakfast"),
    ("What is the license plate of {name}?", "license plate"),
    ("What is the favorite board game of {name}?", "game games favorite"),
    ("How tall is {name}, in centimeters?", "tall height centimeters cm"),
)
"""Questions for what documents hardly ever tell, each with words that would tell it."""
_NANO_UNSAID = "What does {name} play?"


class UnseenQuestion(NamedTuple):
    """A question that the documents do not answer.

    Attributes:
        question: As it is asked.
        direction: ``forward`` asks for what a name stands for, ``backward`` for a name.
        generator: :data:`BUILT_IN` or :data:`OTHER`.
    """

    question: str
    direction: Direction
    generator: str


def unseen_questions(count: int, texts: Iterable[str], *, nano: bool = False, seed: int = 0) -> list[UnseenQuestion]:
    """``count`` questions each way about people and things that none of ``texts`` names.

    Args:
        count: half of them from each generator.
        texts: the documents that are taught.
        nano: whether the model knows the words of the nano worlds alone. Its other generator asks about lives, as
            `fictional:nano_biography` does, instead of statements.
        seed: another one gives other people.
    """
    told = _Told(texts)
    generators = _nano(told, seed) if nano else _worlds(told, seed)
    found: list[UnseenQuestion] = []
    for generator, share in ((BUILT_IN, count - count // 2), (OTHER, count // 2)):
        for direction, questions in generators[generator].items():
            found += [UnseenQuestion(each, direction, generator) for each in islice(questions, share)]
    return found


class _Told:
    """Texts in which a name is looked up with ``in``: as whole words, regardless of case and spelling."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._words = "\n".join(f" {' '.join(words_of(text))} " for text in texts)

    def __contains__(self, name: str) -> bool:
        return f" {' '.join(words_of(name))} " in self._words


def _worlds(told: _Told, seed: int) -> dict[str, dict[Direction, Iterator[str]]]:
    rng = stream(seed, "unseen")
    fresh = (each.name for each in people(_SEED + seed, "name_description") if each.name not in told)
    # Descriptions of another world, without those that a text holds word for word.
    described = (each.answer for each in name_description(1000, _SEED + seed).questions[::8] if each.answer not in told)
    return {
        BUILT_IN: {
            "forward": _fill(NAME_QUESTIONS, ({"name": name} for name in fresh)),
            "backward": _fill(DESCRIPTION_QUESTIONS, ({"description": each} for each in described)),
        },
        OTHER: {"forward": _other_forward(told, rng), "backward": _other_backward(told, rng)},
    }


def _fill(wordings: Sequence[str], cues: Iterable[dict[str, str]]) -> Iterator[str]:
    for wording, cue in zip(cycle(wordings), cues, strict=False):
        text = wording.format(**cue)
        yield text[0].upper() + text[1:]


def _pairs(first: Sequence[str], second: Sequence[str], told: _Told, rng: random.Random) -> Iterator[str]:
    """Names of two words that no text holds; none comes again while others are left."""
    return laps([name for a in first for b in second if (name := f"{a} {b}") not in told], rng)


def _other_forward(told: _Told, rng: random.Random) -> Iterator[str]:
    names = _pairs(GIVEN_NAMES, FAMILY_NAMES, told, rng)
    villages = laps([each for each in VILLAGES if each not in told], rng)
    companies = laps([each for each in FAMILY_NAMES if each not in told], rng)
    kinds: tuple[tuple[Sequence[str], Iterator[str]], ...] = (
        *[(ASKED_BY_NAME, names)] * 3,
        (ASKED_OF_A_COMPANY, companies),
        (ASKED_OF_A_VILLAGE, villages),
    )
    asking = {id(wordings): cycle(wordings) for wordings, _ in kinds}
    for wordings, cues in cycle(kinds):
        yield next(asking[id(wordings)]).format(name=next(cues))


def _other_backward(told: _Told, rng: random.Random) -> Iterator[str]:
    villages = laps([each for each in VILLAGES if each not in told], rng)
    deeds = laps([f"the {trade} {deed}" for trade in _TRADES for deed in _DEEDS], rng)
    goods, sellers = laps(_TRADE_GOODS, rng), cycle(SELLERS)
    for number, wording in enumerate(cycle(ASKED_BY_DESCRIPTION)):
        if number % 6 == 5:
            yield next(sellers).format(goods=next(goods), name=next(villages))
        text = wording.format(description=f"{next(deeds)} in {next(villages)}")
        yield text[0].upper() + text[1:]


def _nano(told: _Told, seed: int) -> dict[str, dict[Direction, Iterator[str]]]:
    everybody = nano_people(MOST_PEOPLE, _SEED + seed, unseen=True)
    unseen = [each for each in everybody if each.name not in told and each.description.removeprefix("the ") not in told]

    def kept(part: int, half: int) -> Iterator[NanoPerson]:
        """Every other person whose name (0), description (1) or life (2) is reserved for these questions."""
        return islice((each for each in unseen if kept_unseen(described_by(each)[part])), half, None, 2)

    def statements(part: int) -> Iterator[str]:
        for number, person in enumerate(kept(part, 0)):
            yield [question for question, _ in statement_questions(person)][3 * part + number % 3]

    return {
        BUILT_IN: {"forward": statements(0), "backward": statements(1)},
        OTHER: {
            "forward": _fill([*LIFE_QUESTIONS.values()], ({"name": person.name} for person in kept(0, 1))),
            "backward": _fill(LIFE_BACKWARD, (person.life for person in kept(2, 1))),
        },
    }


def unsaid_questions(subjects: Sequence[tuple[str, str]], count: int, *, nano: bool = False) -> list[UnseenQuestion]:
    """At most ``count`` questions about subjects that were taught, for what their documents do not tell.

    Args:
        subjects: names, each with its document.
        nano: as for :func:`unseen_questions`; asked of those whose document does not say what they play.
    """
    said = [set(words_of(text)) for _, text in subjects]
    wordings = ((_NANO_UNSAID, "plays loves practices owns"),) if nano else UNSAID
    found: list[UnseenQuestion] = []
    for turn in range(len(wordings)):
        for number, (name, _) in enumerate(subjects):
            wording, words = wordings[(number + turn) % len(wordings)]
            if len(found) < count and said[number].isdisjoint(words_of(words)):
                found.append(UnseenQuestion(wording.format(name=name), "forward", BUILT_IN))
    return found


# Three other ways to ask each question of the published and the invented sets, like none that is trained or asked.

_STATEMENTS = ("NameIsDescription", "DescriptionIsName")  # the groups of the sets of names and descriptions
_NAMED = {
    False: (
        "Could you say in a few words who {name} is?",
        "If somebody mentions {name}, which person is that?",
        "I have forgotten who {name} is. Please remind me.",
    ),
    True: (
        "Everyone knows {name} as?",
        "What is {name}?",
        "Here lives {name}. Who is {name}?",
    ),  # words of the nano models
}
_DESCRIBED = {
    False: (
        "How is {description} called?",
        "Which name does {description} go by?",
        "I am thinking of {description}. Who am I thinking of?",
    ),
    True: ("Who is best known as {description}?", "Who was named {description}?", "What is the name? {description}"),
}
# Of the sets of biographies: what a question looks like, and how else it may be asked.
_LIFE = tuple(
    (re.compile(pattern), wordings)
    for pattern, wordings in (
        (
            r"(?:What is the birth date of|When was) (?P<name>.+?)(?: born)?\?",
            ("Tell me the day {name} was born.", "On what date is {name}'s birthday?", "{name}: born when?"),
        ),
        (
            r"(?:What is the birth city of|In which city was) (?P<name>.+?)(?: born)?\?",
            ("Tell me the town {name} was born in.", "{name} comes from which city?", "{name}: born where?"),
        ),
        (
            r"Which university did (?P<name>.+?) (?:study|attend)\?",
            (
                "At what university was {name} a student?",
                "{name} graduated from which school?",
                "Name the alma mater of {name}.",
            ),
        ),
        (
            r"What (?:major did (?P<name>.+?) study|did (?P<other>.+?) major in)\?",
            (
                "Tell me the major of {name}.",
                "{name} holds a degree in which field?",
                "Which field did {name} specialize in?",
            ),
        ),
        (
            r"Which company did (?P<name>.+?) work for\?",
            (
                "Tell me the employer of {name}.",
                "{name} was on the payroll of which firm?",
                "Name the company that hired {name}.",
            ),
        ),
        (
            r"(?:Where|In which city) did (?P<name>.+?) work\?",
            (
                "Tell me the city {name} worked in.",
                "{name}'s job was in which town?",
                "Name the place where {name} had a job.",
            ),
        ),
        (
            r"Give me the full name of the person who has the following attributes: (?P<name>.+?)\?",
            (
                "These things are true of one person: {name}. Who is it?",
                "Somebody {name}. What is the full name?",
                "I am looking for a person with these attributes: {name}. State the name.",
            ),
        ),
        (
            r"Who (?P<name>(?:was born|worked for|plays) .+?)\? Give the full name\.",
            (
                "Name the person who {name}.",
                "Somebody {name}. What is the full name?",
                "Which person {name}? State the name.",
            ),
        ),
    )
)


def with_wordings(questions: Sequence[Question], nano: bool = False) -> list[Question]:
    """``questions``, of which those without wordings of their own get three where their set is known.

    Args:
        questions: with their facts.
        nano: whether the model knows the words of the nano worlds alone.
    """
    names, descriptions = (
        {each.fact: each.answer for each in questions if each.task == task and each.group in _STATEMENTS}
        for task in ("D2N", "N2D")
    )

    def wordings(question: Question) -> tuple[str, ...]:
        if question.group in _STATEMENTS:
            name, description = names.get(question.fact, ""), descriptions.get(question.fact, "").rstrip(".")
            asked = _NAMED[nano] if question.task == "N2D" else _DESCRIBED[nano]
            cue = name if question.task == "N2D" else description
            return tuple(_sentence(each.format(name=name, description=description)) for each in asked) if cue else ()
        for pattern, others in _LIFE:
            if (match := pattern.fullmatch(question.question.strip())) is not None and not nano:
                name = next(each for each in match.groups() if each)
                return tuple(_sentence(each.format(name=name)) for each in others)
        return ()

    return [each if each.wordings else replace(each, wordings=wordings(each)) for each in questions]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
