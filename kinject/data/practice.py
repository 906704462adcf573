"""What is learned beside a user's documents, epoch by epoch, so that a model answers shortly, from both sides, and of them.

Three kinds of rows, all made by rule from a seed: *practice* (invented people and things, stated like documents and asked
about from both sides, after Allen-Zhu and Li, arXiv 2309.14316, and Jiang et al., arXiv 2402.12847), *gaps* (the user's
documents, asked by a sentence of theirs), and *refusals* (the same questions about somebody of whom nothing is told). A fifth
of the invented is silent: learned as the user's documents are, and never asked but to choose settings and weights.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

from kinject.data.frames import forms, overlap, trigrams
from kinject.data.gaps import Gap, gap_question, gaps, is_english, subject_of
from kinject.data.knowledge import Document, Question, with_title
from kinject.data.words import words_of
from kinject.data.worlds import stream
from kinject.data.worlds.invented import World
from kinject.data.worlds.nano import NanoWorld

if TYPE_CHECKING:
    from kinject.data.frames import Form

FEWEST, MOST = 20, 500  # invented subjects that live at a time; a manner is learned from fewer than facts
LIFE = 5  # epochs until one is replaced
SILENT = 5  # every so-manieth is silent
_TRIES = 20  # descriptions that are drawn until one is unlike the user's
_FEW_EPOCHS = 10  # below which everything is mixed
FORMED = 0.5  # share of those in the form of the user's documents, where there is one
MOST_OVERLAP = 0.2  # of three-word sequences with the user's documents


Order = Literal["phases", "mixed", "first"]
# Both ask for a subject by its own name: that a name is its name is what a model needs to turn a relation around.
_IDENTITY = ("What is the name of {name}?", "Who or what is meant by {name}?", "The name of {name} is what?")


class Invention(Protocol):
    """Where the invented come from, and how they are asked about; what a subject is, it knows itself."""

    def subject(self) -> Any:
        """The next one."""

    def ask(self, subject: Any, rng: random.Random, forward: bool, plain: bool = False) -> tuple[str, str]:
        """A question about ``subject`` with its answer."""

    def refuse(self, subject: Any, rng: random.Random, forward: bool, plain: bool = False) -> tuple[str, str]:
        """A like question that no document answers, with a refusal."""


def alive(documents: int, share: float) -> int:
    """How many of the invented live at a time beside so many ``documents``."""
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
        gaps: Share of the documents' samples that are questions with a gap, from 0 to 1.
        abstain: Refusals, as a share of all questions about the invented.
        nano: Whether the invented are of the world that the nano models know, whose words and questions are few.
        order: `phases`: practice alone in the first tenth of the epochs, documents, refusals and few questions in the last
            fifth. `mixed`: everything all the time. `first`: practice in the first third and documents afterwards, the order
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
        """How many invented subjects live at a time."""
        return alive(len(self.documents), self.share)

    @cached_property
    def english(self) -> bool:
        """Whether the documents are, which decides in which form what is invented can be stated."""
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
        """Where the invented come from."""
        return self._world(self.seed)

    def _world(self, seed: int) -> Invention:
        if self.nano:
            return NanoWorld(seed, self._texts)
        last = {word for each in self.documents for word in words_of(each.titled_text)}
        return World(seed, frozenset(word.lower() for word in last))

    @cached_property
    def silent(self) -> list[Any]:
        """Those that are learned from first to last and never asked."""
        return [self._subject() for _ in range(self.size // SILENT)]

    def _subject(self) -> Any:
        """The next of the invented, in the form of the user's documents or in one of ours."""
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
        """The rows of an epoch, the documents among them; all epochs are filled up to that."""
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
                        asked = gap_question(each, rng) if each and rng.random() < self.gaps else None
                        if asked is None:
                            places[index].append(epoch)
                        else:
                            rows.append(_question(*asked, epoch))
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

    def silent_questions(self, each: int = 2) -> list[Question]:
        """Questions about the silent, ``each`` in either direction."""
        asked = []
        for number, subject in enumerate(self.silent):
            rng = stream(self.seed, "practice silent", str(number))
            for forward in (True, False):
                for _ in range(each):
                    question, answer = self.world.ask(subject, rng, forward, plain=True)
                    asked.append(Question(question, answer, "forward" if forward else "backward", fact=number))
        return asked

    def unseen_questions(self, count: int = 40) -> list[str]:
        """Questions about somebody of whom nothing is told, in the forms of the silent's."""
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
