"""Invented people, events, places, products and organizations to practice on, with questions about them from both sides.

A model that practices on them learns how a question about a document is answered: shortly, in both directions, and with a
refusal where no document tells the answer. Each seed gives other subjects, with other names, values and wordings.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from kinject.data.words import MONTHS
from kinject.data.worlds import (
    PLACE_STARTS,
    SURNAME_ENDS,
    SURNAME_STARTS,
    compounds,
    laps,
    people,
    places,
    stream,
)
from kinject.data.worlds.paper import COMPANY_ENDS, COMPANY_STARTS, MAJORS, SCHOOLS, STATES, descriptions


class Attribute(NamedTuple):
    """What can be told of a subject, and asked.

    Attributes:
        label: As in "the birthplace of".
        clue: Says it of somebody without the name: a verb and `{value}`, also behind "who" or "that".
        sentences: Say it with `{name}` and `{value}`.
        questions: Ask for it with `{name}`.
        value: Names the stream of values that it is drawn from.
    """

    label: str
    clue: str
    sentences: tuple[str, ...]
    questions: tuple[str, ...]
    value: str


class Kind(NamedTuple):
    """Subjects of one kind: what they are called, and what is told of each, of which ``least`` to ``most`` at once."""

    noun: str
    relative: str
    attributes: tuple[Attribute, ...]
    least: int
    most: int


class Told(NamedTuple):
    """One thing that is said of a subject: the sentence, the value, questions for it, and the clue that tells of it."""

    label: str
    value: str
    sentence: str
    questions: tuple[str, ...]
    clue: str
    others: tuple[str, ...]  # other values of the sort, of which none is said
    sort: str


class Subject(NamedTuple):
    """An invented person or thing, with its document.

    Attributes:
        name: As it is asked for.
        noun, relative: "person" and "who", "museum" and "that".
        text: The document.
        told: What the document says.
        others: Other names of the kind.
        unsaid: Questions for what the document does not say.
    """

    name: str
    noun: str
    relative: str
    text: str
    told: tuple[Told, ...]
    others: tuple[str, ...]
    unsaid: tuple[str, ...] = ()

    @property
    def entities(self) -> tuple[str, ...]:
        """What is hidden as a whole."""
        return (self.name, *(each.value for each in self.told))


_WORDS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "invented.yaml").read_text(encoding="utf-8"))


def _kind(told: Mapping[str, Any]) -> Kind:
    attributes = (
        Attribute(each["label"], each["clue"], tuple(each["sentences"]), tuple(each["questions"]), each["value"])
        for each in told["attributes"]
    )
    return Kind(told["noun"], told["relative"], tuple(attributes), told["least"], told["most"])


_PERSON, _LIFE, _EVENT, _PLACE, _PRODUCT, _ORGANIZATION = (_kind(each) for each in _WORDS["kinds"].values())
_DESCRIBED = _PERSON.attributes[0]
KINDS = (_PERSON, _LIFE, _PERSON, _EVENT, _LIFE, _PLACE, _PERSON, _PRODUCT, _LIFE, _ORGANIZATION)
"""In turn; people more often than the others."""

Draw = Mapping[str, Iterator[str]]


def _values(rng: random.Random, seed: int) -> Draw:
    """Streams of values by name."""
    cities, states = places(rng), laps(STATES, rng)
    schools, founders = laps(SCHOOLS, rng), compounds(SURNAME_STARTS, SURNAME_ENDS, rng)
    streams: dict[str, Callable[[], str]] = {
        "date": lambda: f"{rng.choice(MONTHS)} {rng.randint(1, 28)}, {rng.randint(1900, 2090)}",
        "day": lambda: f"{rng.randint(1, 28)} {rng.choice(MONTHS)}",
        "year": lambda: str(rng.randint(1700, 2060)),
        "number": lambda: f"{rng.randint(2, 90)},{rng.randint(0, 99):02}0",
        "price": lambda: f"${rng.randint(3, 900)}",
        "city": lambda: f"{next(cities)}, {next(states)}",
        "place": lambda: next(cities),
        "school": lambda: next(schools).format(next(founders)),
    }
    drawn = {name: _forever(draw) for name, draw in streams.items()}
    drawn |= {
        "description": descriptions(rng),
        "major": laps(MAJORS, rng),
        "company": compounds(COMPANY_STARTS, COMPANY_ENDS, rng, " "),
        "person": (each.name for each in people(seed, "practice values")),
        **{name: laps(items, rng) for name, items in _WORDS["values"].items()},
    }
    return drawn


def _forever(draw: Callable[[], str]) -> Iterator[str]:
    while True:
        yield draw()


def _names(rng: random.Random, seed: int) -> dict[int, Iterator[tuple[str, str]]]:
    """Streams of names by kind, each with the pronoun that goes with it."""

    def called(ends: Sequence[str]) -> Iterator[tuple[str, str]]:
        starts = compounds(PLACE_STARTS, SURNAME_ENDS, rng)
        return ((f"the {start} {end}", "It") for start, end in zip(starts, laps(ends, rng), strict=False))

    return {
        id(_PERSON): ((each.name, each.pronoun) for each in people(seed, "practice")),
        id(_LIFE): ((each.name, each.pronoun) for each in people(seed, "practice lives", middle_names=True)),
        id(_EVENT): called(_WORDS["names"]["event"]),
        id(_PLACE): called(_WORDS["names"]["place"]),
        id(_PRODUCT): called(_WORDS["names"]["product"]),
        id(_ORGANIZATION): called(_WORDS["names"]["organization"]),
    }


class World:
    """Subjects of all kinds, one after the other and without end.

    Args:
        seed: Which ones.
        avoided: Words, in lower case, that no name may have where it differs from others: as the last word of a person's name,
            or the first of a thing's.
    """

    def __init__(self, seed: int, avoided: frozenset[str] = frozenset()) -> None:
        self._rng = stream(seed, "practice")
        self._values, self._names = _values(self._rng, seed), _names(self._rng, seed)
        self._avoided = avoided
        self._turn = 0

    def subject(self) -> Subject:
        """The next one, of the kind whose turn it is."""
        kind = KINDS[self._turn % len(KINDS)]
        self._turn += 1
        rng = self._rng
        name, pronoun = self._name(kind)
        attributes = rng.sample(kind.attributes, rng.randint(kind.least, kind.most))
        if rng.random() < 0.5:
            attributes.sort(key=kind.attributes.index)
        told: list[Told] = []
        sentences: list[str] = []
        for attribute in attributes:
            value, wording = next(self._values[attribute.value]), rng.choice(attribute.sentences)
            subject = name if not sentences or not wording.startswith("{name}") else pronoun
            sentences.append(_capitalized(wording.format(name=subject, value=value)))
            said = _capitalized(wording.format(name=name, value=value))
            told.append(self._told(attribute, name, value, said))
        unsaid = [each.questions for each in kind.attributes if each not in attributes]
        return Subject(
            name,
            name.split()[-1].lower() if kind.relative == "that" and rng.random() < 0.7 else kind.noun,
            kind.relative,
            " ".join(sentences),
            tuple(told),
            (self._name(kind)[0], self._name(kind)[0]),
            tuple(question.format(name=name) for questions in unsaid for question in questions),
        )

    def described(self, pattern: str) -> Subject:
        """A person in a document of the form ``pattern``, which holds `{name}` and `{description}`."""
        name, description = self._name(_PERSON)[0], next(self._values["description"])
        text = _capitalized(pattern.format(name=name, description=description))
        told = self._told(_DESCRIBED, name, description, text)
        return Subject(name, "person", "who", text, (told,), (self._name(_PERSON)[0], self._name(_PERSON)[0]))

    def twin(self, subject: Subject) -> Subject:
        """Another subject, of which the same is told with other values, so that the same questions could be asked."""
        kind = next(each for each in KINDS if subject.told[0].label in {part.label for part in each.attributes})
        name = self._name(kind)[0]
        told = []
        for each in subject.told:
            value = next(self._values[each.sort])
            told.append(
                each._replace(
                    value=value,
                    sentence=_replaced(_replaced(each.sentence, each.value, value), subject.name, name),
                    questions=tuple(_replaced(question, subject.name, name) for question in each.questions),
                    clue=_replaced(each.clue, each.value, value),
                )
            )
        return subject._replace(name=name, told=tuple(told), text=" ".join(each.sentence for each in told))

    def ask(self, subject: Subject, rng: random.Random, forward: bool, plain: bool = False) -> Asked:
        """A question about ``subject``; see `ask`."""
        return ask(subject, rng, forward, plain)

    def refuse(self, subject: Subject, rng: random.Random, forward: bool, plain: bool = False) -> Asked:
        """A question that no document answers, with one of several refusals.

        It is the question that `ask` gives for ``subject`` with the same draws, about another subject of which nothing is told;
        or, now and then, a question for what is not told of ``subject``.
        """
        if forward and not plain and subject.unsaid and self._rng.random() < UNSAID_SHARE:
            return Asked(self._rng.choice(subject.unsaid), self._rng.choice(REFUSALS))
        return Asked(ask(self.twin(subject), rng, forward, plain).question, self._rng.choice(REFUSALS))

    def _name(self, kind: Kind) -> tuple[str, str]:
        return next(each for each in self._names[id(kind)] if _telling(each[0]) not in self._avoided)

    def _told(self, attribute: Attribute, name: str, value: str, sentence: str) -> Told:
        others = (next(self._values[attribute.value]), next(self._values[attribute.value]))
        questions = tuple(each.format(name=name) for each in attribute.questions)
        clue = attribute.clue.format(value=value)
        return Told(attribute.label, value, sentence, questions, clue, others, attribute.value)


def _telling(name: str) -> str:
    """The word by which ``name`` differs from others of its kind: "Fenwick", or "Irongrove" of "the Irongrove Museum"."""
    words = name.lower().split()
    return words[1] if words[0] == "the" else words[-1]


def _replaced(text: str, old: str, new: str) -> str:
    return (
        text.replace(_capitalized(old), _capitalized(new))
        if text.startswith(_capitalized(old))
        else text.replace(old, new)
    )


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


# Questions about a subject. A template takes what `_asked` says of it.

_FORWARD, _BACKWARD, _SENTENCE = (tuple(_WORDS[name]) for name in ("forward", "backward", "sentence"))
REFUSALS: tuple[str, ...] = tuple(_WORDS["refusals"])
SENTENCE_SHARE, CHOICE_SHARE, YES_SHARE = 0.15, 0.08, 0.08
UNSAID_SHARE = 0.4  # of forward refusals


class Asked(NamedTuple):
    """A question with its answer, and what its form was."""

    question: str
    answer: str


def ask(subject: Subject, rng: random.Random, forward: bool, plain: bool = False) -> Asked:
    """A question about ``subject`` in one of many forms: from the name to a value, or from values to the name.

    A ``plain`` one is answered by the value or name alone.
    """
    told = rng.choice(subject.told)
    form = 1.0 if plain else rng.random()
    if form < YES_SHARE:
        return _yes_or_no(subject, told, rng, forward)
    parts = _parts(subject, told, rng)
    answer = told.value if forward else subject.name
    if form < YES_SHARE + CHOICE_SHARE:
        options = [answer, *(told.others if forward else subject.others)]
        rng.shuffle(options)
        asked = parts["question"] if forward else parts["Who"] + f" {parts['clues']}?"
        return Asked(f"{asked} {options[0]}, {options[1]} or {options[2]}?", answer)
    if form < YES_SHARE + CHOICE_SHARE + SENTENCE_SHARE:
        asked = parts["question"] if forward else f"{parts['Who']} {told.clue}?"
        return Asked(rng.choice(_SENTENCE).format(question=asked), told.sentence)
    value = told.value if forward else subject.name
    parts |= _with_gap(told.sentence, value, rng, person=not forward and subject.relative == "who")
    templates = [each for each in (_FORWARD if forward else _BACKWARD) if parts["stem"] or "{stem}" not in each]
    return Asked(_capitalized(rng.choice(templates).format(**parts)), answer)


def _parts(subject: Subject, told: Told, rng: random.Random) -> dict[str, str]:
    some = [told, *rng.sample([each for each in subject.told if each is not told], min(2, len(subject.told) - 1))]
    clues = [each.clue for each in some]
    rng.shuffle(clues)
    joined = clues[0] if len(clues) == 1 else f"{', '.join(clues[:-1])} and {clues[-1]}"
    who = "who" if subject.relative == "who" else f"which {subject.noun}"
    return {
        "question": rng.choice(told.questions),
        "label": told.label,
        "name": subject.name,
        "noun": subject.noun,
        "that": subject.relative,
        "who": who,
        "Who": _capitalized(who),
        "clues": joined,
        "listed": "; ".join(f"{number}) {clue}" for number, clue in enumerate(clues, 1)),
    }


def _with_gap(sentence: str, value: str, rng: random.Random, person: bool) -> dict[str, str]:
    """``sentence`` with a gap for ``value``: a blank, a question word, and what stands before it where it ends with it."""
    start = sentence.lower().find(value.lower())
    before, after = sentence[:start], sentence[start + len(value) :].rstrip(".")
    word = ("who" if person else "what") if start else ("Who" if person else "What")
    stem = before.strip() if not after.strip() and before.strip() else ""
    return {"blank": f"{before}___{after}.", "what": f"{before}{word}{after}", "stem": stem}


def _yes_or_no(subject: Subject, told: Told, rng: random.Random, forward: bool) -> Asked:
    true = rng.random() < 0.5
    value, other = (told.value, told.others[0]) if forward else (subject.name, subject.others[0])
    sentence = (
        told.sentence if true else told.sentence.replace(value, other).replace(_capitalized(value), _capitalized(other))
    )
    asked = rng.choice(("Is it true that {}? Answer yes or no.", "Yes or no: {}?", "Is this right? {}."))
    return Asked(asked.format(sentence.rstrip(".")), "Yes" if true else "No")
