"""Which fact a question is about, and whether it asks along the text or against it.

Both are worked out from the words, as :mod:`kinject.data.words` counts them. A question is linked to the fact that shares the
most telling words with it; it is *backward* when the answer stands before its cue (the question's other words) in the
document. An inflected word counts by its stem, a script without spaces and Hangul (whose particles stick to their word)
by short runs of characters. Links are looked up in an inverted index, so that a hundred thousand documents cost no more
than their words. Knows nothing of files or models.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import unicodedata
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from statistics import mode
from typing import NamedTuple

import regex

from kinject.data.knowledge import UNKNOWN, Direction, Document, Question
from kinject.data.rows import QuestionRow, merge_answers
from kinject.data.words import fold, is_unspaced, word_spans, words_of
from kinject.errors import DataError

logger = logging.getLogger(__name__)

# Words that say how something is asked, not what is asked about.
STOP_WORDS = frozenset(
    str.split(
        """a about also am an and any are as at be been being but by can could did do does for from had has have he
        her here him his how i if in into is it its may me might must my no nor not of off on or our out
        over please shall she should so than that the their them then there these they this those to
        under up us was we were what when where which who whom whose why will with would you your

        का की के को ने में से पर है हैं था थी थे हो और कि यह वह इस उस जो किस किसने किसे किसका किसकी क्या कौन कब कहाँ कहां कैसे कितने कितनी
        कितना किया किए करता करती हुआ हुई हुए गया गई लिए द्वारा नाम

        кто что кем чем кого чего какой какая какое какие какую каком какой когда где как сколько в во на с со и по о об
        от из за к у был была было были это этот эта

        من ما ماذا متى أين كيف كم هو هي في على إلى عن التي الذي الذين أي هل كان كانت هذا هذه"""
    )
)
# Letters of a stem: what inflection leaves of a word is mostly its first five letters (as in retrieval by truncated words).
_STEM = 5
# Letters that Arabic and Hebrew write before a word as part of it: and, the, in, like, to, from.
_PROCLITICS = regex.compile(r"(?:[وف]?(?:بال|كال|لل|ال|[بلك])|[وف])(?=\w{3})|[והבכלמש]{1,2}(?=\w{3})")
_LATIN = regex.compile(r"\p{Latin}")
_ACCENTED = regex.compile(r"[\p{Latin}\p{Greek}\p{Cyrillic}]")
_HANGUL = regex.compile(r"\p{Hangul}+")
# Characters of a run that tell as much as a word does. Thai and its kin spell sounds, Han and Hangul write syllables.
_SPELLED = regex.compile(r"\p{Line_Break=SA}|\p{Tibetan}")
_SPELLED_RUN, _SYLLABLE_RUN = 3, 2

# A link holds when this much of the question's and of the answer's weight (geometric mean) stands in the fact. Over the
# published sets and fictional worlds of four people and more, true links score .56 and up, links to a wrong fact when
# the true one is absent .44 and down.
LINK_THRESHOLD = 0.5
# The same for the question alone, when no document has a word of the answer ("yes"); wrong facts score .68 and down.
QUESTION_THRESHOLD = 0.7
# A stem tells less than the word itself.
_STEM_WEIGHT = 0.8
# Weight of a word that no document has, unless it reads like a name or number: such words are the frame of the question
# ("on the radio, who was presented as"), while an unknown name says that its fact is absent.
_FRAME_WEIGHT = 0.25

_POSTINGS_BUDGET = 10_000  # occurrences looked at before the commoner words are only looked up for the best
_CANDIDATES = 256  # facts that the commoner words are looked up for
_RESCORED = 16  # facts whose score is worked out exactly
_NEIGHBORHOOD = 50  # words around an answer that tell which of its occurrences is meant
_CLEAR = 0.1  # share of the cue's weight by which one side must outweigh the other to be a direction


class _Place(NamedTuple):
    """One word of a text, or one character of a script without spaces, and what it is looked up by."""

    word: str
    terms: tuple[str, ...]  # what a question looks up: the word, or the longest runs of its characters
    keys: frozenset[str]  # what finds it in a document: its terms, shorter runs and the stem


def _places(text: str) -> list[_Place]:
    places: list[_Place] = []
    run: list[str] = []
    end = 0
    for first, last in [*word_spans(text), (len(text), len(text))]:
        written = text[first:last]
        unspaced = not written.isascii() and is_unspaced(written)
        if run and (not unspaced or first != end):
            places += _run_places(run)
            run = []
        if unspaced:
            run.append(fold(written))
        elif place := _place(written):
            places.append(place)
        end = last
    return places


@lru_cache(maxsize=1 << 16)
def _place(written: str) -> _Place | None:
    """A word of a script with spaces; ``None`` where nothing of it is left in the spelling in which words are compared."""
    word = fold(written)
    if not word:
        return None
    if _HANGUL.match(word):
        terms = ["".join(pair) for pair in itertools.pairwise(word)] or [word]
        return _Place(word, tuple(terms), frozenset((*terms, *word)))
    return _Place(word, (word,), frozenset((word, _stem(word))) - {""})


def _run_places(run: Sequence[str]) -> Iterator[_Place]:
    length = _SPELLED_RUN if _SPELLED.match(run[0]) else _SYLLABLE_RUN
    for start, character in enumerate(run):
        starting = ["".join(run[start : start + size]) for size in range(1, length + 1) if start + size <= len(run)]
        whole = len(starting) == min(length, len(run))
        yield _Place(character, tuple(starting[-1:] if whole else ()), frozenset(starting))


def _terms(text: str) -> list[str]:
    """What ``text`` is looked up by, in order: its words, and runs of characters where a script has no such words."""
    return [term for place in _places(text) for term in place.terms]


@lru_cache(maxsize=1 << 16)
def _stem(term: str) -> str:
    """The key under which all forms of an inflected word are found; the empty text where a word has no other forms."""
    if not term[0].isalpha() or any(c.isdigit() for c in term):
        return ""
    if not term.isascii() and (_HANGUL.match(term) or is_unspaced(term)):
        return ""
    if _ACCENTED.match(term):
        # Inflection moves accents (Greek) and changes vowels by them (German).
        term = "".join(c for c in unicodedata.normalize("NFD", term) if not unicodedata.combining(c))
    if len(term) < _STEM and _LATIN.match(term):
        return ""  # short words differ by accents (Vietnamese), and their beginnings tell little
    match = _PROCLITICS.match(term)
    term = term[match.end() if match else 0 :]
    if len(term) <= _STEM:
        # A short word ends before its stem does: река, реки, рекой.
        term = term[:3] + term[3:].rstrip("аеиоуыяюйь")
    return f"*{term[:_STEM]}"


def _names(text: str, opens_sentence: bool) -> set[str]:
    """The words that read like names or numbers: with a leading digit, or capitalized inside a sentence."""
    names: set[str] = set()
    for match in regex.finditer(r"[\p{L}\p{M}\p{N}]+", text):
        before = text[max(match.start() - 8, 0) : match.start()].rstrip(" \"'“‘(")
        first = before[-1] in ".?!:\n" if before else opens_sentence
        if match[0][0].isdigit() or (match[0][0].isupper() and not first):
            names.update(_terms(match[0]))
    return names


class FactIndex:
    """An inverted index from words to facts."""

    def __init__(self, documents: Iterable[tuple[int, str]], questions: Iterable[str] = ()) -> None:
        """Index the words of every fact.

        Args:
            documents: ``(fact, text)`` pairs; the texts of one fact count together.
            questions: the texts of all questions, so that words common to them ("name", "person") weigh little.
        """
        facts: dict[int, set[str]] = defaultdict(set)
        for fact, text in documents:
            for place in _places(text):
                facts[fact] |= place.keys
        self._postings: dict[str, list[int]] = defaultdict(list)  # word or stem -> facts, ascending
        for fact in sorted(facts):
            for term in facts[fact]:
                self._postings[term].append(fact)
        self._asked: Counter[str] = Counter()
        total = len(facts)
        for text in questions:
            terms = set(_terms(text))
            self._asked.update((terms | set(map(_stem, terms))) - {""})
            total += 1
        self._total = total

    def weight(self, word: str) -> float:
        """How telling a word is: its inverse document frequency over facts and questions."""
        return math.log((self._total + 1) / max(len(self._postings.get(word, ())) + self._asked[word], 1))

    def link(self, question: str, answer: str) -> int | None:
        """The fact that ``question`` is about, or ``None`` when no document comes close.

        Of equally good facts the first is taken.
        """
        asked, answered = self._weights(question), self._weights(answer, opens_sentence=False)
        if not any(map(self._known, answered)):
            answered = {}
        threshold = LINK_THRESHOLD if answered else QUESTION_THRESHOLD
        best, best_score = None, 0.0
        for fact in self._candidates({**asked, **answered}):
            score = self._coverage(asked, fact)
            if answered:
                score = math.sqrt(score * self._coverage(answered, fact))
            if score > best_score + 1e-12:
                best, best_score = fact, score
        return best if best_score >= threshold else None

    def nearest(self, text: str) -> int | None:
        """The fact with the largest share of the weight of ``text``; ``None`` when they share no word."""
        words = self._weights(text)
        return max(self._candidates(words), key=lambda fact: self._coverage(words, fact), default=None)

    def _weights(self, text: str, opens_sentence: bool = True) -> dict[str, float]:
        """The content words of ``text`` with their weights; all words where there is no content word ("Who")."""
        words, names = _terms(text), _names(text, opens_sentence)
        return {
            word: self.weight(word) * (1.0 if self._known(word) or word in names else _FRAME_WEIGHT)
            for word in [word for word in words if word not in STOP_WORDS] or words
        }

    def _known(self, word: str) -> bool:
        return word in self._postings or _stem(word) in self._postings

    def _stem_weight(self, word: str) -> float:
        """What the stem of a word tells: less than the word, which no more texts have."""
        return _STEM_WEIGHT * self.weight(_stem(word))

    def _candidates(self, words: Mapping[str, float]) -> list[int]:
        """The facts that share most weight with ``words``, ascending; rare words are looked up first."""
        scores: dict[int, float] = defaultdict(float)
        words = {**words, **{_stem(word): self._stem_weight(word) for word in words}}
        known = sorted(words.keys() & self._postings.keys(), key=lambda word: (len(self._postings[word]), word))
        visited = walked = 0
        while walked < len(known) and (not walked or visited + len(self._postings[known[walked]]) <= _POSTINGS_BUDGET):
            for fact in self._postings[known[walked]]:
                scores[fact] += words[known[walked]]
            visited += len(self._postings[known[walked]])
            walked += 1
        best = heapq.nlargest(_CANDIDATES, scores, key=scores.__getitem__)
        for word in known[walked:]:
            for fact in best:
                scores[fact] += words[word] * self._holds(fact, word)
        return sorted(heapq.nlargest(_RESCORED, best, key=scores.__getitem__))

    def _coverage(self, words: Mapping[str, float], fact: int) -> float:
        """The share of the words' weight that stands in the fact."""
        found = 0.0
        for word, weight in words.items():
            if self._holds(fact, word):
                found += weight
            elif self._holds(fact, _stem(word)):
                found += self._stem_weight(word)
        return found / sum(words.values()) if found else 0.0

    def _holds(self, fact: int, word: str) -> bool:
        postings = self._postings.get(word, ())
        position = bisect_left(postings, fact)
        return position < len(postings) and postings[position] == fact


def text_direction(
    document: str, question: str, answer: str, weight: Callable[[str], float] = lambda word: 1.0
) -> Direction:
    """The direction of a question from the order of cue and answer in its document; ``unknown`` where it cannot be told.

    The cue is the question's content words outside the answer; each pulls to the side on which it stands nearest to
    the answer, by its weight. Of several occurrences of the answer, the one counts around which most of the cue stands; among
    equals, the first. The direction is unknown if answer or cue do not stand in the document, or if the cue stands on both
    sides alike.

    Args:
        document: the canonical wording of the fact.
        question: the question.
        answer: its reference answer.
        weight: weight of a word, e.g. :meth:`FactIndex.weight`.
    """
    places = _places(document)
    asked = _terms(question)
    positions = _positions(places)
    spans = _answer_spans(places, positions, answer, set(asked))
    cue: dict[str, tuple[float, list[int]]] = {}
    for term in {*asked} - STOP_WORDS:
        if term in positions:
            cue[term] = weight(term), positions[term]
        elif (stem := _stem(term)) in positions:
            cue[term] = min(weight(term), _STEM_WEIGHT * weight(stem)), positions[stem]
    sides = [_sides(cue.values(), start, end) for start, end in spans]
    _, total, nearest, standing, beside = max(sides, key=lambda each: each[0], default=(0.0,) * 5)
    # Where the sides are even, more of the cue stands on one of them; or what stands right beside the answer is its kind
    # ("the opera Night Harbor"), and counts least.
    for pull in (nearest, standing, nearest - beside):
        if abs(pull) > _CLEAR * total:
            return "forward" if pull > 0 else "backward"
    return "unknown"


def _sides(cue: Iterable[tuple[float, Sequence[int]]], start: int, end: int) -> tuple[float, ...]:
    """How the cue stands around an answer at ``start`` up to ``end``; words inside the answer are no cue.

    Args:
        cue: the weight of each of its words, and where it stands, ascending.
        start, end: the answer's first place and the one behind it.

    Returns:
        The weight of the cue near the answer, and of all of it. Then, positive where more stands before the answer: the
        weight by the side on which each word is nearest, by the sides on which it stands at all, and of what is right beside
        the answer.
    """
    near = total = nearest = standing = beside = 0.0
    for strength, found in cue:
        # Distance to the answer, negative before it.
        gaps = [p - start if p < start else p - end + 1 for p in found if not start <= p < end]
        if gaps:
            gap = min(gaps, key=abs)
            near += strength * (abs(gap) <= _NEIGHBORHOOD)
            total += strength
            nearest -= math.copysign(strength, gap)
            standing += strength * ((found[0] < start) - (found[-1] >= end))
            beside += strength * ((gap == -1) - (gap == 1))
    return near, total, nearest, standing, beside


def _positions(places: Sequence[_Place]) -> dict[str, list[int]]:
    """Where each term and each stem stands."""
    positions: dict[str, list[int]] = defaultdict(list)
    for position, place in enumerate(places):
        for term in place.keys:
            positions[term].append(position)
    return positions


def _answer_spans(
    places: Sequence[_Place], positions: Mapping[str, Sequence[int]], answer: str, asked: set[str]
) -> list[tuple[int, int]]:
    """Where the answer stands: word for word, inflected, or without an article; else the middle one of its own words."""
    sought = _places(answer)
    content = [i for i, place in enumerate(sought) if place.word not in STOP_WORDS]
    inner = sought[content[0] : content[-1] + 1] if content else []  # without an article or preposition around it
    for words, same in itertools.product((sought, inner), (_equal, _inflected)):
        whole = [
            (i, i + len(words))
            for i in range(len(places) - len(words) + 1)
            if words and all(same(places[i + offset], each) for offset, each in enumerate(words))
        ]
        if whole:
            return whole
    own = {term for place in sought for term in place.terms if term not in STOP_WORDS and term not in asked}
    found = sorted({p for term in own for p in positions.get(term) or positions.get(_stem(term)) or ()})
    if not found:
        return []
    middle = found[len(found) // 2]
    return [(middle, middle + 1)]


def _equal(place: _Place, sought: _Place) -> bool:
    return place.word == sought.word


def _inflected(place: _Place, sought: _Place) -> bool:
    """Whether both are forms of one word: the same stem, or Hangul with a particle behind it."""
    if _HANGUL.match(sought.word):
        return place.word.startswith(sought.word)
    return place.word == sought.word or _stem(sought.word) in place.keys


# Rows of questions and wordings of documents, each put to its fact.


def link_questions(
    rows: Sequence[QuestionRow], documents: Sequence[Document], canonical: Sequence[Document]
) -> tuple[Question, ...]:
    """Give each question its fact and direction.

    Args:
        rows: the questions as read.
        documents: what is learned.
        canonical: all facts of the source in the wording that directions are read from; of several wordings of a fact
            the first counts.

    Raises:
        DataError: no question at all is about one of the documents.
    """
    loaded = {document.fact for document in documents}
    texts: dict[int, str] = {}
    for document in canonical:
        texts.setdefault(document.fact, document.titled_text)
    index = FactIndex(
        ((document.fact, document.titled_text) for document in canonical),
        (f"{row.question} {row.answer}" for row in rows),
    )
    rows = merge_answers([replace(row, fact=_fact_of(row, index, texts)) for row in rows])
    questions: list[Question] = []
    absent: list[str] = []
    unlinked: list[str] = []
    unknown: list[str] = []
    for row in rows:
        fact = row.fact
        if fact is None and row.direction is None:
            unlinked.append(row.source)
        elif fact is not None and fact not in loaded:
            absent.append(row.source)
        else:
            direction = row.direction
            if direction is None and fact is not None:
                found = _standing(row.answers, texts[fact]) or row.answer
                direction = text_direction(texts[fact], row.question, found, index.weight)
                unknown += [row.source] if direction == UNKNOWN else []
            assert direction is not None
            questions.append(linked_question(row, direction, fact))
    if rows and not questions:
        raise DataError(
            f"{rows[0].source}: none of the {len(rows)} questions could be linked to a document; check that questions "
            'and documents belong together, or give each question a "direction" (forward or backward)'
        )
    for sources, what in (
        (absent, "are left out: they are about facts that are not loaded (first: %s)"),
        (
            unlinked,
            "are left out: they could be linked to no document (first: %s); give each a "
            '"fact" or a "direction" (forward or backward) to keep it',
        ),
        (
            unknown,
            "count neither as forward nor as backward: their text does not tell in which order cue and "
            'answer stand (first: %s); they are asked, and scored as "unknown"; give each a "direction" (forward or '
            "backward) where you know it",
        ),
    ):
        if sources:
            logger.warning(f"%d of %d questions {what}", len(sources), len(rows), sources[0])
    return tuple(questions)


def linked_question(row: QuestionRow, direction: Direction, fact: int | None) -> Question:
    """The question of ``row``, now that its direction and its fact are known."""
    return Question(
        row.question,
        row.answer,
        direction,
        row.group,
        row.task,
        fact,
        row.source,
        other_answers=row.other_answers,
        wordings=row.wordings,
    )


def _fact_of(row: QuestionRow, index: FactIndex, texts: Mapping[int, str]) -> int | None:
    """The fact that a row names; else the one its answers link it to, first of all one that holds the answer in its text."""
    if row.fact is not None:
        return row.fact
    linked = {answer: index.link(row.question, answer) for answer in row.answers}
    facts = [fact for fact in linked.values() if fact is not None]
    holding = (fact for answer, fact in linked.items() if fact is not None and _standing([answer], texts[fact]))
    return next(holding, facts[0] if facts else None)


def _standing(answers: Sequence[str], text: str) -> str | None:
    """The first of ``answers`` that stands in ``text`` word for word."""
    words = f" {' '.join(words_of(text))} "
    return next((answer for answer in answers if f" {' '.join(words_of(answer))} " in words), None)


def group_wordings(documents: Sequence[Document], canonical: Sequence[Document]) -> tuple[Document, ...]:
    """``documents`` with the fact of the canonical document that each one words.

    A wording belongs to the canonical text it repeats, else to the one that shares the most telling words with it.
    Where the wordings of each fact stand together, in blocks of one size, a whole block takes the fact of most of its wordings.

    Raises:
        DataError: a wording shares no word with any canonical document.
    """
    index = FactIndex(
        ((document.fact, document.text) for document in canonical), (document.text for document in documents)
    )
    verbatim = {document.text: document.fact for document in reversed(canonical)}
    facts: list[int] = []
    for document in documents:
        fact = verbatim.get(document.text)
        fact = index.nearest(document.text) if fact is None else fact
        if fact is None:
            raise DataError(
                f"{document.source}: the text is a wording of no document in {canonical[0].source.rpartition(':')[0]}; "
                'number the facts of both files with a field "fact"'
            )
        facts.append(fact)
    size, rest = divmod(len(facts), len(set(facts)))
    if rest == 0:
        blocks = [facts[start : start + size] for start in range(0, len(facts), size)]
        main = [mode(block) for block in blocks]
        if len(set(main)) == len(main):
            facts = [fact for fact in main for _ in range(size)]
    return tuple(replace(document, fact=fact) for document, fact in zip(documents, facts, strict=True))
