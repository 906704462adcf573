"""What is learned beside a user's documents in each epoch, so that a model gives short answers, in both directions.

Three kinds of rows, all made by rule from a seed: *practice* (invented people and things, stated like documents and asked
about from both sides, after Allen-Zhu and Li, arXiv 2309.14316, and Jiang et al., arXiv 2402.12847), *gaps* (the user's
documents, asked by a sentence of theirs), and *refusals* (the same questions about people of whom no document tells). A fifth
of the invented subjects is *silent*: it is learned like the user's documents, and asked about only to choose settings and
weights. Knows nothing of tokens or models.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import regex

from kinject.data.gaps import Gap, gap_questions, gaps, is_english, subject_of
from kinject.data.knowledge import Document, Question, with_title
from kinject.data.words import words_of
from kinject.data.worlds import stream
from kinject.data.worlds.invented import World
from kinject.data.worlds.nano import NanoWorld

FEWEST, MOST = 20, 500  # invented subjects at a time; how to answer is learned from fewer examples than facts are
LIFE = 5  # epochs until an invented subject is replaced
SILENT = 5  # one in so many is silent
_TRIES = 20  # descriptions drawn until one is unlike the user's
_FEW_EPOCHS = 10  # below which everything is mixed
FORMED = 0.5  # share of the invented subjects in the form of the user's documents, where these have one
MOST_OVERLAP = 0.2  # of three-word sequences with the user's documents


Order = Literal["phases", "mixed", "first"]
# Each asks for a subject by its own name. To learn that a name names itself helps a model to reverse relations.
_IDENTITY = ("What is the name of {name}?", "Who or what is meant by {name}?", "The name of {name} is what?")


class Invention(Protocol):
    """A source of invented subjects, of a type of its own, and of questions about them."""

    def subject(self) -> Any:
        """The next one."""

    def ask(self, subject: Any, rng: random.Random, forward: bool, plain: bool = False) -> tuple[str, str]:
        """A question about ``subject`` with its answer."""

    def refuse(self, subject: Any, rng: random.Random, forward: bool, plain: bool = False) -> tuple[str, str]:
        """A question of the same form that no document answers, with a refusal as its answer."""


def alive(documents: int, share: float) -> int:
    """How many invented subjects there are at a time beside so many ``documents``."""
    return min(MOST, max(FEWEST, round(documents * share / (1 - share)))) if share else 0


def practiced(documents: int, share: float, abstain: float) -> tuple[int, int]:
    """About how many statements and questions of practice an epoch holds beside so many ``documents``."""
    size = alive(documents, share)
    return size, round(2 * (size - size // SILENT) / (1 - abstain))


@dataclass(frozen=True)
class Practice:
    """How an epoch is put together.

    Attributes:
        documents: The user's.
        epochs: How many epochs there are.
        share: Invented subjects, as a share of them and the documents.
        gaps: Share of the documents' samples in whose place stand questions with a gap, from 0 to 1.
        abstain: Refusals, as a share of all questions about the invented.
        nano: Whether the invented people are of the nano world, as the nano models know its few words and questions alone.
        order: `phases`: practice alone in the first tenth of the epochs, documents, refusals and few questions in the last
            fifth. `mixed`: everything in every epoch. `first`: practice in the first third and documents afterwards, the order
            of pre-instruction-tuning (Jiang et al., arXiv 2402.12847).
        identity: Share of the documents' samples that ask for their subject by its own name, after the Identity Bridge.
        seed: Of all draws.
    """

    documents: Sequence[Document]
    epochs: int
    share: float = 0.5
    gaps: float = 0.4
    abstain: float = 0.33
    order: Order = "phases"
    identity: float = 0.0
    nano: bool = False
    seed: int = 0

    @property
    def size(self) -> int:
        """How many invented subjects there are at a time."""
        return alive(len(self.documents), self.share)

    @cached_property
    def english(self) -> bool:
        """Whether the documents are in English; in another language, no subject can be invented in their form."""
        return is_english(" ".join(self._texts[:100]))

    def summary(self) -> str:
        """In one or two sentences, what an epoch holds beside the documents."""
        said = []
        if self.share:
            formed = f", some in the form of the documents ({self.forms[0].pattern!r})" if self.forms else ""
            said.append(
                f"{self.size} invented people and things to practice on, beside {len(self.documents)} documents{formed}"
            )
            if not self.english and not self.nano:
                said.append("the documents are not in English, but what is practiced is")
        if self.gaps:
            without = sum(not self._gaps(index) for index in range(len(self.documents)))
            said.append(
                f"{len(self.documents) - without} of {len(self.documents)} documents have a sentence to leave a gap in"
            )
        return "; ".join(said)

    @cached_property
    def forms(self) -> list[Form]:
        """The forms that the user's documents share."""
        if self.nano or not self.english:
            return []
        return forms(["" if each.messages else each.titled_text for each in self.documents])

    @cached_property
    def world(self) -> Invention:
        """The source of invented subjects."""
        return self._world(self.seed)

    def _world(self, seed: int) -> Invention:
        if self.nano:
            return NanoWorld(seed, self._texts)
        last = {word for each in self.documents for word in words_of(each.titled_text)}
        return World(seed, frozenset(word.lower() for word in last))

    @cached_property
    def silent(self) -> list[Any]:
        """The silent subjects, which are learned throughout and never asked about in training."""
        return [self._subject() for _ in range(self.size // SILENT)]

    def _subject(self) -> Any:
        """The next invented subject, in the form of the user's documents or in one of kinject's own."""
        rng = stream(self.seed, "practice forms", str(next(self._numbers)))
        if not self.forms or rng.random() >= FORMED:
            return self.world.subject()
        form = rng.choices(self.forms, [len(each.documents) for each in self.forms])[0]
        assert isinstance(self.world, World)
        for _ in range(_TRIES):
            subject = self.world.described(form.pattern)
            if overlap(subject.told[0].value, self._told) <= MOST_OVERLAP:
                return subject
        return self.world.subject()

    @cached_property
    def _numbers(self) -> Any:
        return iter(range(10**9))

    @cached_property
    def _told(self) -> set[tuple[str, ...]]:
        return {each for text in self._texts for each in trigrams(text)}

    @cached_property
    def _texts(self) -> list[str]:
        return [each.text for each in self.documents]

    def phase(self, epoch: int) -> str:
        """What an epoch holds.

        `first`: practice alone; `middle`: everything; `last`: documents, refusals and few questions; `documents`: those alone.
        """
        if self.order == "mixed" or not self.share or self.epochs < _FEW_EPOCHS:
            return "middle"
        if self.order == "first":
            return "first" if 3 * epoch < self.epochs else "documents"
        if epoch < round(0.1 * self.epochs):
            return "first"
        return "last" if epoch >= round(0.8 * self.epochs) else "middle"

    @cached_property
    def longest_epoch(self) -> int:
        """How many rows the longest epoch has, documents included."""
        return max(Counter(epoch for row in self.rows() for epoch in row["epochs"]).values())

    def rows(self) -> list[dict[str, Any]]:
        """All rows, each with the `epochs` that show it; documents come first, in their order and as they are."""
        return self._rows

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        shown: list[list[int]] = [[] for _ in self.documents]
        found = [self._gaps(index) for index in range(len(self.documents))]
        rows: list[dict[str, Any]] = []
        silent = self.silent
        silent_shown: list[list[int]] = [[] for _ in silent]
        silent_gaps = [gaps(each.text, each.entities) for each in silent]
        subjects = (
            [subject_of(each.text, each.entities, each.title) for each in self.documents] if self.identity else []
        )
        living: dict[int, Any] = {}
        stated: dict[int, dict[str, Any]] = {}
        for epoch in range(self.epochs):
            phase = self.phase(epoch)
            rng = stream(self.seed, "practice epoch", str(epoch))
            if phase != "first":
                for group, places in ((found, shown), (silent_gaps, silent_shown)):
                    for index, each in enumerate(group):
                        asked = gap_questions(each, rng) if each and rng.random() < self.gaps else []
                        rows += [_question(*question, epoch) for question in asked]
                        if not asked:
                            places[index].append(epoch)
                for subject in subjects:
                    if subject and rng.random() < self.identity:
                        rows.append(_question(rng.choice(_IDENTITY).format(name=subject), subject, epoch))
            if phase == "documents":
                continue
            for slot in range(self.size - len(silent)):
                if slot not in living or (phase != "last" and (epoch + slot) % LIFE == 0):
                    living[slot] = self._subject()
                    stated[slot] = _document(living[slot])
                    rows.append(stated[slot])
                subject = living[slot]
                if phase != "last":
                    stated[slot]["epochs"].append(epoch)
                for forward in (True, False):
                    if phase == "last" and rng.random() < 0.5:
                        continue
                    draw = rng.random()
                    rows.append(_question(*self.world.ask(subject, random.Random(draw), forward), epoch))
                    if rng.random() < self.abstain / (1 - self.abstain):
                        rows.append(_question(*self.world.refuse(subject, random.Random(draw), forward), epoch))
        rows = [each for each in rows if each["epochs"]]
        own = [{"epochs": epochs} for epochs in shown]
        return own + [_document(each, epochs) for each, epochs in zip(silent, silent_shown, strict=True)] + rows

    def _gaps(self, index: int) -> list[Gap]:
        document = self.documents[index]
        if document.messages or not self.gaps or self.nano:  # the nano models have few words, and infilling for it
            return []
        phrases = [form.descriptions[form.documents.index(index)] for form in self.forms if index in form.documents]
        text = with_title(document.title, document.text)
        return gaps(text, document.entities, document.title, phrases)

    def silent_questions(self) -> list[Question]:
        """Questions about the silent subjects, two in either direction for each of them."""
        asked = []
        for number, subject in enumerate(self.silent):
            rng = stream(self.seed, "practice silent", str(number))
            for forward in (True, False):
                for _ in range(2):
                    question, answer = self.world.ask(subject, rng, forward, plain=True)
                    asked.append(Question(question, answer, "forward" if forward else "backward", fact=number))
        return asked

    def unseen_questions(self, count: int = 40) -> list[str]:
        """``count`` questions about people of whom no document tells, in the forms of the questions about silent subjects."""
        asked = []
        world = self._world(self.seed + 10_000)  # nobody of whom the model is told
        for number in range(count):
            rng = stream(self.seed, "practice strangers", str(number))
            subject = self.silent[number % len(self.silent)]
            asked.append(world.refuse(subject, rng, number % 2 == 0, plain=True)[0])
        return asked


def _question(question: str, answer: str, epoch: int) -> dict[str, Any]:
    return {"prompt": question, "completion": answer, "epochs": [epoch]}


def _document(subject: Any, epochs: list[int] | None = None) -> dict[str, Any]:
    return {"text": subject.text, "entities": list(subject.entities), "epochs": [] if epochs is None else epochs}


# The form of a user's documents: the words that several of them share, around a name and a description. Documents are
# invented in such a form so that they read like the user's.

_FEWEST = 3  # documents of one form
_SHORTEST, _LONGEST = 3, 12  # words that they share
_LOOKED_AT, _FORM_TRIES = 200, 10  # documents that are looked at, and shared words that are tried
_WORD = regex.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_MARKS = " ,.;:\"'“”"
_ARTICLES = ("a", "an", "the")


@dataclass(frozen=True)
class Form:
    """A sentence with two open places, `{name}` and `{description}`; and how many documents have it."""

    pattern: str
    documents: tuple[int, ...]
    names: tuple[str, ...]
    descriptions: tuple[str, ...]


def forms(texts: Sequence[str]) -> list[Form]:
    """The forms that at least three of ``texts`` share: some words in common, a name, and a description of several words."""
    words = [_WORD.findall(text) for text in texts[:_LOOKED_AT]]
    left = set(range(len(words)))
    found: list[Form] = []
    refused: set[tuple[str, ...]] = set()
    while len(left) >= _FEWEST and len(refused) < _FORM_TRIES:
        shared = _most_shared(words, left, refused)
        if shared is None:
            break
        members = sorted(index for index in left if _find(words[index], shared) is not None)
        form = _form(texts, members, shared)
        if form is None:
            refused.add(shared)
        else:
            found.append(form)
            left -= set(members)
    return found


def _most_shared(
    words: Sequence[Sequence[str]], among: set[int], refused: set[tuple[str, ...]]
) -> tuple[str, ...] | None:
    """The words in a row that the most documents share, and the most of them."""
    counts: Counter[tuple[str, ...]] = Counter()
    for index in among:
        own = words[index]
        counts.update(
            {
                tuple(own[start : start + length])
                for length in range(_SHORTEST, _LONGEST + 1)
                for start in range(len(own) - length + 1)
            }
            - refused
        )
    best = max(counts.items(), key=lambda each: ((each[1] - 1) * len(each[0]), each[0]), default=None)
    return None if best is None or best[1] < _FEWEST else best[0]


def _find(own: Sequence[str], shared: Sequence[str]) -> int | None:
    return next(
        (i for i in range(len(own) - len(shared) + 1) if tuple(own[i : i + len(shared)]) == tuple(shared)), None
    )


def _form(texts: Sequence[str], members: Sequence[int], shared: tuple[str, ...]) -> Form | None:
    """The form of ``members``, which all hold ``shared``; None where their open places are no name and description."""
    while shared and shared[-1].lower() in _ARTICLES:
        shared = shared[:-1]
    pieces = regex.compile(r"\s*".join(regex.escape(word) for word in shared))
    before, after = [], []
    middle = ""
    for index in members:
        match = pieces.search(texts[index])
        if match is None:
            return None
        middle = match[0]
        before.append(texts[index][: match.start()])
        after.append(texts[index][match.end() :])
    start, end = _common(before, first=True), _common(after, first=False)
    start = regex.sub(r"(?:^|(?<=\s))(?:an?|the)\s*$", "", start, flags=regex.IGNORECASE)
    opened, closed = [each[len(start) :] for each in before], [each[: len(each) - len(end)] for each in after]
    empty = [not any(each.strip(_MARKS) for each in side) for side in (opened, closed)]
    if all(empty):
        return None
    if any(empty):  # the shared words stand at one end
        inner = _second(closed if empty[0] else opened)
        if inner is None:
            return None
        start, end = (start + middle, end) if empty[0] else (start, middle + end)
        middle, opened, closed = inner
    kinds = [_kind(opened), _kind(closed)]
    if set(kinds) != {"name", "description"}:
        return None
    sides = [_trimmed(opened), _trimmed(closed)]
    pattern = f"{start}{sides[0][1]}{{{kinds[0]}}}{sides[0][2]}{middle}{sides[1][1]}{{{kinds[1]}}}{sides[1][2]}{end}"
    values = dict(zip(kinds, (sides[0][0], sides[1][0]), strict=True))
    return Form(pattern, tuple(members), tuple(values["name"]), tuple(values["description"]))


_NAME = r"\p{Lu}[\w.'’-]*(?: \p{Lu}[\w.'’-]*){1,3}"
_SPLITS = (
    regex.compile(rf"(?P<first>.+\w.*?)(?P<between>,? )(?P<last>{_NAME}\s*)"),
    regex.compile(rf"(?P<first>\s*{_NAME})(?P<between>,? )(?P<last>.*\w.*)"),
)


def _second(texts: Sequence[str]) -> tuple[str, list[str], list[str]] | None:
    """What stands between a name and the rest in all ``texts``, and what stands before and behind it."""
    for split in _SPLITS:
        matches = [match for match in map(split.fullmatch, texts) if match]
        between = {match["between"] for match in matches}
        if len(matches) == len(texts) and len(between) == 1:
            return between.pop(), [match["first"] for match in matches], [match["last"] for match in matches]
    return None


def _common(texts: Sequence[str], first: bool) -> str:
    """The longest beginning, or end, that ``texts`` share, up to the border of a word."""
    turned = list(texts) if first else [text[::-1] for text in texts]
    length = next(
        (i for i, letters in enumerate(zip(*turned, strict=False)) if len(set(letters)) > 1), min(map(len, turned))
    )
    while length > 0 and any(
        length < len(text) and text[length - 1].isalnum() and text[length].isalnum() for text in turned
    ):
        length -= 1
    shared = turned[0][:length]
    return shared if first else shared[::-1]


def _kind(values: Sequence[str]) -> str:
    """What stands in an open place of several documents: a name, a description, or something else."""
    stripped = [each.strip(_MARKS) for each in values]
    words = [each.split() for each in stripped]
    if all(2 <= len(each) <= 4 and all(word[:1].isupper() for word in each) for each in words):
        return "name"
    if sum(len(each) >= 3 and each[0].lower() in _ARTICLES for each in words) >= 0.7 * len(words):
        return "description"
    return "other"


def _trimmed(values: Sequence[str]) -> tuple[list[str], str, str]:
    """``values`` without what stands around each of them: white space and marks that all of them have."""
    start = _common(values, first=True)
    start = start[: len(start) - len(start.lstrip(" ,.;:"))]
    end = _common(values, first=False)
    end = end[len(end.rstrip(" ,.;:")) :]
    return [each[len(start) : len(each) - len(end)] for each in values], start, end


def overlap(text: str, known: Container[tuple[str, ...]]) -> float:
    """The share of the three-word sequences of ``text`` that are ``known``, from 0 to 1."""
    own = trigrams(text)
    return sum(each in known for each in own) / max(1, len(own))


def trigrams(text: str) -> set[tuple[str, ...]]:
    """The three-word sequences of ``text``, in lower case and without marks."""
    words = [word.lower() for word in _WORD.findall(text) if word[0].isalnum()]
    return {tuple(words[index : index + 3]) for index in range(len(words) - 2)}
