"""Which fact a question is about, and whether it asks along the text or against it.

Both are read off the words. A question is linked to the fact that shares the most telling words with it; it is
*backward* when the answer stands before its cue (the question's other words) in the document. Links are looked up in
an inverted index, so that a hundred thousand documents cost no more than their words.
"""

from __future__ import annotations

import heapq
import math
import re
import unicodedata
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from kinject.data.knowledge import Direction

# Words that say how something is asked, not what is asked about.
STOP_WORDS = frozenset(
    str.split(
        """a about also am an and any are as at be been being but by can could did do does for from had has have he
        her here him his how i if in into is it its may me might must my no nor not of off on or our out
        over please shall she should so than that the their them then there these they this those to
        under up us was we were what when where which who whom whose why will with would you your"""
    )
)
# Scripts that put no space between words are taken character by character.
_WORD = re.compile(
    r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u0e00-\u0e7f\u3040-\u9fff]+(?:'[^\W_]+)*"
)

# A link holds when this much of the question's and of the answer's weight (geometric mean) stands in the fact. Over the
# published sets and fictional worlds of four people and more, true links score .56 and up, links to a wrong fact when
# the true one is absent .44 and down.
LINK_THRESHOLD = 0.5
# The same for the question alone, when no document has a word of the answer ("yes"); wrong facts score .68 and down.
QUESTION_THRESHOLD = 0.7
# Weight of a word that no document has, unless it reads like a name or number: such words are the frame of the question
# ("on the radio, who was presented as"), while an unknown name says that its fact is absent.
_FRAME_WEIGHT = 0.25

_POSTINGS_BUDGET = 10_000  # occurrences looked at before the commoner words are only looked up for the best
_CANDIDATES = 256  # facts that the commoner words are looked up for
_RESCORED = 16  # facts whose score is worked out exactly
_NEIGHBORHOOD = 50  # words around an answer that tell which of its occurrences is meant


def words_of(text: str) -> list[str]:
    """The words of ``text`` in order, in one spelling: NFKC, case folded, no possessive ``'s``."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return [word.removesuffix("'s") for word in _WORD.findall(text)]


def _names(text: str, opens_sentence: bool) -> set[str]:
    """The words that read like names or numbers: with a leading digit, or capitalized inside a sentence."""
    names: set[str] = set()
    for match in re.finditer(r"[^\W_]+", text):
        before = text[max(match.start() - 8, 0) : match.start()].rstrip(" \"'“‘(")
        first = before[-1] in ".?!:\n" if before else opens_sentence
        if match[0][0].isdigit() or (match[0][0].isupper() and not first):
            names.update(words_of(match[0]))
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
            facts[fact].update(words_of(text))
        self._postings: dict[str, list[int]] = defaultdict(list)  # word -> facts, ascending
        for fact in sorted(facts):
            for word in facts[fact]:
                self._postings[word].append(fact)
        self._asked: Counter[str] = Counter()
        total = len(facts)
        for text in questions:
            self._asked.update(set(words_of(text)))
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
        if not any(word in self._postings for word in answered):
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
        words, names = words_of(text), _names(text, opens_sentence)
        return {
            word: self.weight(word) * (1.0 if word in self._postings or word in names else _FRAME_WEIGHT)
            for word in [word for word in words if word not in STOP_WORDS] or words
        }

    def _candidates(self, words: Mapping[str, float]) -> list[int]:
        """The facts that share most weight with ``words``, ascending; rare words are looked up first."""
        scores: dict[int, float] = defaultdict(float)
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
        found = sum(weight for word, weight in words.items() if self._holds(fact, word))
        return found / sum(words.values()) if found else 0.0

    def _holds(self, fact: int, word: str) -> bool:
        postings = self._postings.get(word, ())
        position = bisect_left(postings, fact)
        return position < len(postings) and postings[position] == fact


def text_direction(
    document: str, question: str, answer: str, weight: Callable[[str], float] = lambda word: 1.0
) -> Direction:
    """The direction of a question from the order of cue and answer in its document.

    The cue is the question's content words outside the answer; each pulls to the side on which it stands nearest to
    the answer, by its weight. An answer that occurs several times is taken where most of the cue stands around it.
    An answer that stands nowhere in the document, or a cue that does not, leaves nothing to read: ``forward``.

    Args:
        document: the canonical wording of the fact.
        question: the question.
        answer: its reference answer.
        weight: weight of a word, e.g. :meth:`FactIndex.weight`.
    """
    words = words_of(document)
    spans = _answer_spans(words, words_of(answer), set(words_of(question)))
    cue = {word for word in words_of(question) if word not in STOP_WORDS}
    places: dict[str, list[int]] = defaultdict(list)
    for position, word in enumerate(words):
        if word in cue:
            places[word].append(position)
    best_near, best_pull = -1.0, 0.0
    for start, end in spans:
        near = pull = 0.0
        for word, positions in places.items():
            # Distance to the answer, negative before it; words inside it are no cue.
            gaps = [p - start if p < start else p - end + 1 for p in positions if not start <= p < end]
            if gaps:
                gap = min(gaps, key=abs)
                near += weight(word) * (abs(gap) <= _NEIGHBORHOOD)
                pull += weight(word) * (1 if gap < 0 else -1)
        if near > best_near:
            best_near, best_pull = near, pull
    return "backward" if best_pull < 0 else "forward"


def _answer_spans(words: Sequence[str], answer: Sequence[str], asked: set[str]) -> list[tuple[int, int]]:
    """Where the answer stands word for word, else the middle one of its own words that occur."""
    length = len(answer)
    whole = [
        (i, i + length)
        for i, word in enumerate(words)
        if length and word == answer[0] and [*words[i : i + length]] == answer
    ]
    if whole:
        return whole
    own = {word for word in answer if word not in STOP_WORDS and word not in asked}
    places = [i for i, word in enumerate(words) if word in own]
    middle = places[len(places) // 2] if places else 0
    return [(middle, middle + 1)] if places else []
