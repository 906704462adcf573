"""What a run learns and asks: a knowledge set holds documents and the questions about them.

A *fact* is one person, statement or article; every wording of it carries the same fact number, and so does every
question about it. A question is *forward* when its cue stands before its answer in the document and *backward* when
the answer stands first; the reversal curse (arXiv 2309.12288) is the gap between the two. Where a text does not tell which
of the two it is, the direction is *unknown*: the question is asked, and counts in neither.

Knows nothing of files, tokens or models.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from kinject.data.words import words_of
from kinject.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    import datasets

Direction = Literal["forward", "backward", "unknown"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward")
"""The directions that are measured; a question of neither is ``unknown``."""
UNKNOWN: Direction = "unknown"
# One wording of each fact; several that keep its order; several that change it.
PARAPHRASES = ("none", "same_order", "permute_order")


def check_paraphrases(paraphrases: str) -> None:
    """Refuse an unknown variant.

    Raises:
        ConfigurationError: ``paraphrases`` is none of the three.
    """
    if paraphrases not in PARAPHRASES:
        raise ConfigurationError(f'paraphrases="{paraphrases}": expected one of {", ".join(PARAPHRASES)}')


def _require_text(value: str, what: str, where: str, fix: str) -> None:
    if not isinstance(value, str):
        raise DataError(f"{where}: the {what} is {type(value).__name__}, expected a string; {fix}")
    if not value.strip():
        raise DataError(f"{where}: the {what} is empty; {fix}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: the {what} holds half of a surrogate pair (U+{ord(value[error.start]):04X}), which is no "
            "character; write the whole character, or its pair of \\u escapes"
        ) from error


@dataclass(frozen=True)
class Document:
    """One text to learn, used verbatim.

    Args:
        text: the document.
        fact: number of the fact that it states; paraphrases of one fact share it.
        entities: names in ``text`` that reverse training keeps whole (see :func:`kinject.data.reverse_text`).
        source: where it was read, ``file:line``.
        messages: (role, content) of a conversation, of which the last answer is learned instead of ``text``.
        title: what the text is about, where it may not say so itself; see :func:`with_title`.
        id: the field ``id`` of its row; a later document of the same id may correct it.

    Raises:
        DataError: the text is empty, no string, or not encodable.
    """

    text: str
    fact: int
    entities: tuple[str, ...] = ()
    source: str = ""
    messages: tuple[tuple[str, str], ...] = ()
    title: str = ""
    id: str = ""

    def __post_init__(self) -> None:
        """Refuse a document that cannot be learned."""
        _require_text(self.text, "document", self.source or f"fact {self.fact}", "give it a text, or delete it")

    @property
    def titled_text(self) -> str:
        """The text that is learned: below its title, unless it names the title itself."""
        return self.text if self.messages else with_title(self.title, self.text)


def with_title(title: str, text: str) -> str:
    """``text`` below its ``title``; unchanged where there is no title, or where the text names it.

    A text that calls its subject "it" cannot be learned backward, since the answer does not stand in it.
    """
    return text if not title.strip() or names(text, title) else f"{title.strip()}\n\n{text}"


def names(text: str, title: str) -> bool:
    """Whether ``title`` stands in ``text``, word for word, without regard to case and to how its characters are encoded."""
    wanted, words = words_of(title), words_of(text)
    if not wanted:  # no letter or digit in it
        return title.strip() in text
    return any(words[i : i + len(wanted)] == wanted for i, word in enumerate(words) if word == wanted[0])


@dataclass(frozen=True)
class Question:
    """One question with its reference answer, or several of which each is right.

    Args:
        question: as it is asked.
        answer: the reference answer, the first of several.
        direction: ``forward`` (cue before answer in the document), ``backward``, or ``unknown``.
        group: free label, e.g. ``NameIsDescription``.
        task: free label, e.g. ``N2D`` (name to description).
        fact: the fact it asks about; ``None`` when unknown.
        source: where it was read, ``file:line``.
        other_answers: what is accepted beside ``answer``; a score is the best over all of them.
        wordings: other ways to ask the same, which `--other_wordings` asks too.

    Raises:
        DataError: the question or an answer is empty, or the direction is none of the three.
    """

    question: str
    answer: str
    direction: Direction
    group: str = ""
    task: str = ""
    fact: int | None = None
    source: str = ""
    other_answers: tuple[str, ...] = ()
    wordings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a question that cannot be scored."""
        where = self.source or f"question {self.question!r}"
        _require_text(self.question, "question", where, "write the question, or delete it")
        for wording in self.wordings:
            _require_text(wording, "wording", where, "write the question in other words, or delete that entry")
        for answer in self.answers:
            _require_text(answer, "answer", where, "give the question its answer, or delete it")
        if self.direction not in (*DIRECTIONS, UNKNOWN):
            raise DataError(
                f'{where}: direction "{self.direction}" is neither "forward" nor "backward"; where it is not known, '
                'write "unknown"'
            )

    @property
    def answers(self) -> tuple[str, ...]:
        """All answers that are accepted, the reference answer first."""
        return self.answer, *self.other_answers


def direction_counts(questions: Iterable[Question]) -> dict[str, int]:
    """How many of ``questions`` are asked in each known direction."""
    asked = Counter(question.direction for question in questions)
    return {direction: asked[direction] for direction in DIRECTIONS}


@dataclass(frozen=True)
class Kept:
    """What a model was taught earlier, and has to keep while it learns more.

    Args:
        documents: to be rehearsed; their facts are numbered after those of the new documents.
        questions: about them, and about corrected documents where the correction leaves them true.
        corrected: earlier documents that new ones replace; not rehearsed.
        outdated: questions about the corrected documents whose former answers are no longer right.
    """

    documents: tuple[Document, ...]
    questions: tuple[Question, ...] = ()
    corrected: tuple[Document, ...] = ()
    outdated: tuple[Question, ...] = ()


@dataclass(frozen=True)
class KnowledgeSet:
    """Documents and the questions about them.

    Args:
        name: what the set is called in results, e.g. ``fictional:biography``.
        documents: at least one.
        questions: may be empty.
        paraphrases: ``none``, ``same_order`` or ``permute_order``; ``given`` when a user's own files hold several
            wordings of a fact.
        kept: what was taught earlier and is kept, if anything.

    Raises:
        DataError: there is no document.
    """

    name: str
    documents: tuple[Document, ...]
    questions: tuple[Question, ...] = ()
    paraphrases: str = "none"
    kept: Kept | None = None

    def __post_init__(self) -> None:
        """Refuse a set without documents."""
        if not self.documents:
            raise DataError(f"{self.name}: the set holds no document; name a file or folder with at least one")

    @property
    def facts(self) -> tuple[int, ...]:
        """The fact numbers of the documents, sorted, each once."""
        return tuple(sorted({document.fact for document in self.documents}))

    def select(self, facts: str | Iterable[int]) -> KnowledgeSet:
        """The documents and questions of these facts; the numbers stay as they are.

        Args:
            facts: fact numbers, or a text such as ``"0-9,30-39"`` (both ends included).

        Raises:
            ConfigurationError: the text does not read as a selection.
            DataError: the set has no such fact.
        """
        wanted = set(parse_facts(facts) if isinstance(facts, str) else facts)
        known = set(self.facts)
        if not wanted <= known:
            missing = format_facts(sorted(wanted - known))
            raise DataError(
                f"{self.name}: no document of fact {missing}; the set holds facts {format_facts(sorted(known))}"
            )
        return replace(
            self,
            documents=tuple(document for document in self.documents if document.fact in wanted),
            questions=tuple(question for question in self.questions if question.fact in wanted),
        )

    def titles(self) -> str:
        """In one sentence, how many documents carry a title and how they are learned; "" where none does."""
        titled = [document for document in self.documents if document.title]
        unnamed = [document for document in titled if document.titled_text != document.text]
        if not titled:
            return ""
        first = next(iter(unnamed), titled[0])
        shown = first.titled_text if len(first.titled_text) <= 80 else first.titled_text[:79] + "…"
        carried = f"{len(titled)} of {len(self.documents)} documents carry a title, and"
        if not unnamed:
            return f"{carried} name it in their text: they are learned as they are"
        return f"{carried} {len(unnamed)} of them do not name it in their text: these are learned as {shown!r}"

    def kept_dataset(self) -> datasets.Dataset | None:
        """The earlier documents that are kept, in the form of :meth:`to_dataset`; None where there are none."""
        kept = () if self.kept is None else self.kept.documents
        return KnowledgeSet(self.name, kept).to_dataset() if kept else None

    def to_dataset(self) -> datasets.Dataset:
        """The new documents as a data set with the columns ``text``, ``fact`` and ``entities``, in their order.

        Where some are conversations, a column ``messages`` holds those, and ``read_from`` where each row was read; where some
        have a title, a column ``title``.
        """
        import datasets

        features = datasets.Features(
            {
                "text": datasets.Value("string"),
                "fact": datasets.Value("int64"),
                "entities": datasets.List(datasets.Value("string")),
            }
        )
        columns: dict[str, list[Any]] = {
            "text": [document.text for document in self.documents],
            "fact": [document.fact for document in self.documents],
            "entities": [list(document.entities) for document in self.documents],
        }
        if any(document.messages for document in self.documents):
            message = {"role": datasets.Value("string"), "content": datasets.Value("string")}
            features["messages"] = datasets.List(message)
            columns["messages"] = [
                [{"role": role, "content": content} for role, content in document.messages] or None
                for document in self.documents
            ]
            features["read_from"] = datasets.Value("string")
            columns["read_from"] = [document.source for document in self.documents]
        if any(document.title for document in self.documents):
            features["title"] = datasets.Value("string")
            columns["title"] = [document.title for document in self.documents]
        return datasets.Dataset.from_dict(columns, features=features)

    def split_questions(
        self, fraction: float = 0.5, seed: int = 0
    ) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
        """Divide the questions into ``(validation, test)``, each in the set's order.

        The split is a pure function of the questions, ``fraction`` and ``seed``. It is stratified by (direction,
        group, task); a stratum or a direction with two questions or more is never empty on either side.

        Args:
            fraction: share of the questions that becomes validation, between 0 and 1 (both excluded).
            seed: which questions of each stratum are taken.

        Raises:
            ConfigurationError: ``fraction`` is out of range.
        """
        if not 0.0 < fraction < 1.0:
            raise ConfigurationError(f"fraction={fraction}: expected a share between 0 and 1, for example 0.5")
        validation: set[int] = set()
        for direction in (*DIRECTIONS, UNKNOWN):
            strata: dict[tuple[str, str], list[int]] = defaultdict(list)
            for i, question in enumerate(self.questions):
                if question.direction == direction:
                    strata[question.group, question.task].append(i)
            shuffled = []
            for (group, task), members in sorted(strata.items()):
                random.Random(f"{seed}/{direction}/{group}/{task}").shuffle(members)
                shuffled.append(members)
            validation.update(_take(shuffled, fraction))
        taken = tuple(question for i, question in enumerate(self.questions) if i in validation)
        rest = tuple(question for i, question in enumerate(self.questions) if i not in validation)
        return taken, rest


def _take(strata: Sequence[Sequence[int]], fraction: float) -> list[int]:
    """The first share of every stratum; what rounding adds to one stratum it takes from the next."""
    counts: list[int] = []
    seen = 0
    for members in strata:
        seen += len(members)
        # Half rounds down (to test), so that a question without a twin is a test question.
        count = int(seen * fraction - sum(counts) + 0.5 - 1e-9)
        least, most = (1, len(members) - 1) if len(members) > 1 else (0, 1)
        counts.append(min(max(count, least), most))
    if len(strata) > 1 and not any(counts):
        counts[0] = 1
    if len(strata) > 1 and sum(counts) == seen:
        counts[-1] -= 1
    return [i for members, count in zip(strata, counts, strict=True) for i in members[:count]]


_MOST_FACTS = 10**8  # a longer selection would fill the memory


def parse_facts(text: str) -> tuple[int, ...]:
    """The numbers of a selection such as ``"0-9,30-39"``, sorted, each once.

    Raises:
        ConfigurationError: a part is neither a number nor a range from low to high.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last >= _MOST_FACTS:
            raise ConfigurationError(
                f'facts="{text}": there are no {last:,} facts; write numbers below {_MOST_FACTS:,}'
            )
        if first > last:
            raise ConfigurationError(
                f'facts="{text}": "{part.strip()}" is neither a number nor a range from low to high; '
                'write for example "0-9,30-39"'
            )
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def format_facts(numbers: Sequence[int]) -> str:
    """Sorted numbers as a selection: ``(0, 1, 2, 7)`` becomes ``"0-2,7"``; the inverse of :func:`parse_facts`."""
    parts: list[str] = []
    start = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            first, last = numbers[start], numbers[i - 1]
            parts.append(str(first) if first == last else f"{first}-{last}")
            start = i
    return ",".join(parts)
