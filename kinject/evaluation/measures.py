"""Every measure: how one answer is scored against its accepted answers, and the means of many scores by direction.

Every answer gets the paper's score and the strict one. Knows nothing of models.
"""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import compress, groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import regex
import yaml

from kinject.data.knowledge import DIRECTIONS, UNKNOWN
from kinject.data.words import (
    fold_case,
    is_unspaced,
    join_words,
    normalize,
    sentence_ends,
    spelling,
    word_spans,
    words_of,
)
from kinject.errors import KinjectError
from kinject.evaluation.results import MEASURES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kinject.data import Question


# How one answer is scored against one reference: the paper's reading and the strict one.

STOP_WORDS = frozenset(["a", "of", "the", "and", "is", "are", "be", "to", "new", "on", "in", "at", "an", "for"])
"""The words that the paper drops from answer and reference, in any case, before it compares them."""

ARTICLES = frozenset({"a", "an", "the"})

_DROP_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
# The paper's word tokenizer (NLTK's) still splits after ASCII punctuation is dropped: typographic quotes and dashes become
# words of their own, and a few contractions become two words.
_STANDS_ALONE = regex.compile("([\u00ab\u201c\u2018\u201e\u00bb\u201d\u2019\u2012-\u2015])")
_CONTRACTION = regex.compile(
    r"(?i)\b(?:(can)(not)|(gim)(me)|(gon)(na)|(got)(ta)|(lem)(me))\b|\b(wan)(na)(?=\s|\Z)",
)
# Text that the paper's code reads: ASCII, Western European letters, symbols, and no punctuation that it would leave at a word.
_PUBLISHED = regex.compile(
    r"[\x00-\x7f[\u00a0-\u00ff--\p{P}]\u00ab\u201c\u2018\u201e\u00bb\u201d\u2019\u2012-\u2015\p{S}\p{Z}]*",
    regex.VERSION1,
)

_ORNAMENTS = regex.compile("[™℠®©]")
# Raised digits after letters or digits, except after a unit, whose power is as often written as a plain number (m2).
_POWER = regex.compile(r"(?<=[\p{Nd}\p{L})])(?<!\b(?:[kcdm]?m|ft|in|mi))[⁺⁻]?[⁰¹²³⁴-⁹]+")
_FRACTION = regex.compile(r"(\p{Nd}?)\s?([¼½¾⅐-⅞↉])")
_SAME = str.maketrans("−–‒‐‑⁄∕٪", "-----//%")
_ALONE = ((regex.compile(r"(?<=\d)[—―〜~](?=\d)"), "-"), (regex.compile(r"(?<=\s)&(?=\s)"), "and"))
# Spaces without a meaning: within ranges, ratios and fractions, before a unit, after a currency.
_LOOSE = regex.compile(r"(?<=\d) (?=[-/:×] \d)|(?<=\d [-/:×]) (?=\d)|(?<=\d) (?=[%‰°])|(?<=\p{Sc}) (?=[.\d])")
# Punctuation with a meaning: between digits; a sign; a leading decimal point; units; C#, AT&T, addresses, operators; grades
# and blood types (A*, O-). All other punctuation is dropped.
_MEANS = (
    r"(?<=\d)\p{P}(?=\d)|(?<![\p{L}\p{N}\p{M}\p{Pe}\p{Pf}.!?%°_\-])-(?=\p{Sc}?\.?\d)|(?<![\w.])\.(?=\d)|[%‰‱]|(?<=\d)′+"
    r"|(?<=\p{L})\#|(?<=\w)[&@](?=\w)|!(?==)|&&|(?<=(?<![\w*])\w)\*(?![\w*])|(?<=(?<!\w)\p{Latin}{1,2})-(?![\w\-])"
)
_MARK = regex.compile(rf"({_MEANS})|[[\p{{P}}\p{{Sk}}]--\^]|(?<!\|)\|(?!\|)", regex.VERSION1)
_HANGUL = regex.compile(r"\p{Hangul}")
_JOINTS = regex.compile(r"['’ʼ＇\-‐‑]")


def paper_words(text: str) -> list[str]:
    """The words of ``text`` that the paper compares: punctuation and stop words dropped, case kept."""
    text = _STANDS_ALONE.sub(r" \1 ", text.translate(_DROP_ASCII_PUNCTUATION))
    text = _CONTRACTION.sub(lambda found: " {} {} ".format(*(part for part in found.groups() if part)), text)
    return [word for word in text.split() if word.lower() not in STOP_WORDS]


def paper_recall(answer: str, reference: str) -> float:
    """ROUGE-1 recall of ``reference`` in ``answer``, as in the public code of arXiv 2510.09885.

    Where :func:`reads_as_published` holds for both texts, this equals ``rouge`` 1.0.1 on NLTK words: the share of the
    reference's distinct words that are among the answer's. Where that code raises, since one side has no word left, it is 0.

    Other text is compared by the words of its script, without punctuation of any script and with numbers whole. Korean, and
    text without spaces, is compared by pairs of neighboring characters, so that an answer is found inside a sentence or before
    a particle, but not in characters that are scattered over it.
    """
    answer, reference = normalize(answer), normalize(reference)
    if reads_as_published(answer, reference):
        answered, expected = set(paper_words(answer)), set(paper_words(reference))
    else:
        expected = set(_pieces(_kept(reference), pairs_only=True))
        # A suffix or an article may be joined to the answer by an apostrophe or a hyphen.
        answered = {*_pieces(_kept(answer)), *_pieces(_kept(_JOINTS.sub(" ", answer)))}
    if not answered or not expected:
        return 0.0
    return len(answered & expected) / len(expected)


def reads_as_published(*texts: str) -> bool:
    """Whether the paper's code can split all ``texts`` into words, which it can for English and Western European letters."""
    return all(_PUBLISHED.fullmatch(normalize(text)) for text in texts)


def normalize_answer(text: str) -> str:
    """``text`` in compatibility form, lower case, without punctuation and articles, with single spaces between words.

    This is SQuAD's normalization for any script, except that marks with a meaning stay: signs, decimals, ranges, units, and
    symbols as in C++. Digits of any script become 0-9, and marks that group thousands are dropped. An article is dropped only
    before a word, so that "Vitamin A" keeps its A. A text of nothing but punctuation ("?") stays as it is, so that it equals
    itself and nothing else.
    """
    words = fold_case(_kept(text)).split()
    return join_words([*(word for word in words[:-1] if word not in ARTICLES), *words[-1:]])


def exact_match(answer: str, reference: str) -> float:
    """1 if ``answer`` equals ``reference`` after :func:`normalize_answer`, else 0."""
    return float(normalize_answer(answer) == normalize_answer(reference))


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the normalized tokens, each counted as often as it occurs (SQuAD).

    Korean, and text without spaces, is compared character by character.
    """
    answered, expected = (Counter(_characters(normalize_answer(text))) for text in (answer, reference))
    common = (answered & expected).total()
    if not common:
        return float(not answered and not expected)
    return 2 * common / (answered.total() + expected.total())


def best_score(measure: Callable[[str, str], float], answer: str, accepted: Sequence[str]) -> float:
    """The best score of ``answer`` by ``measure`` against any of the ``accepted`` answers."""
    return max(measure(answer, reference) for reference in accepted)


@lru_cache(maxsize=1 << 12)  # several measures ask for the same text
def _kept(text: str) -> str:
    """``text`` without marks and spaces that have no meaning, in one spelling of words and numbers; case is kept."""
    text = _POWER.sub(lambda found: "^" + found[0], _ORNAMENTS.sub("", normalize(text)))
    text = _FRACTION.sub(lambda found: f"{found[1]} {unicodedata.normalize('NFKC', found[2])}", text)
    spelled, end = "", 0
    for start, stop in word_spans(text):
        spelled += unicodedata.normalize("NFKC", text[end:start]) + spelling(text[start:stop])
        end = stop
    spelled = (spelled + unicodedata.normalize("NFKC", text[end:])).translate(_SAME)
    for mark, instead in _ALONE:
        spelled = mark.sub(instead, spelled)
    kept = _MARK.sub(lambda found: found[1] or "", _LOOSE.sub("", spelled))
    return " ".join(kept.split()) or " ".join(spelled.split())


def _characters(text: str) -> list[str]:
    """The words of ``text``; those in Hangul or in a script without spaces as single characters."""
    return [token for run in _runs(text) for token in run]


def _pieces(text: str, pairs_only: bool = False) -> list[str]:
    """The words of ``text`` without stop words; for a run of characters its pairs of neighbors, and the characters too.

    Args:
        text: words and runs of characters.
        pairs_only: whether the characters of a run that has pairs are left out.
    """
    pieces: list[str] = []
    for run in _runs(join_words(text.split())):
        pairs = [first + second for first, second in pairwise(run)]
        pieces += pairs + (run if not (pairs and pairs_only) else [])
    return [piece for piece in pieces if piece.lower() not in STOP_WORDS] or pieces


def _runs(text: str) -> Iterator[list[str]]:
    """The words of ``text``, each in a list of its own, and the characters of runs in Hangul or a script without spaces."""
    for chunk in text.split():
        if chunk.isascii():
            yield [chunk]
            continue
        for alone, group in groupby(regex.findall(r"\X", chunk), key=_stands_alone):
            characters = list(group)
            yield characters if alone else ["".join(characters)]


def _stands_alone(character: str) -> bool:
    return is_unspaced(character) or _HANGUL.match(character) is not None


# Reciting: how much of a document an answer copies.

_RUN = 3


def copied_share(answer: str, document: str, accepted: Sequence[str] = ()) -> float:
    """The share, 0..1, of the words of ``document`` that ``answer`` copies, not counting those of ``accepted`` answers.

    A word of the document is copied if it belongs to three words in a row (of a shorter document, to all its words) that are
    also in a row in the answer, compared as :func:`kinject.data.words.words_of` spells them; in scripts without spaces every
    character is a word. Places where the document holds an accepted answer do not count: giving that is right, not reciting.
    """
    words = words_of(document)
    return _copied(_runs_of(words_of(answer), min(_RUN, len(words))), words, [words_of(each) for each in accepted])


def recitations(
    answers: Sequence[str], documents: Sequence[str], accepted: Sequence[Sequence[str]] | None = None
) -> list[bool]:
    """Whether each of ``answers`` recites one of ``documents``: copies over half of it, by :func:`copied_share`.

    Args:
        answers: any number of them.
        documents: all that were taught.
        accepted: for each answer the accepted answers to its question.
    """
    if not answers:
        return []
    words_said = [words_of(answer) for answer in answers]
    right = [[words_of(each) for each in of_one] for of_one in accepted or [()] * len(answers)]
    places: dict[tuple[str, ...], list[int]] = {}  # of each run of words, the answers that hold it
    shortest = {min(_RUN, len(words)) for words in map(_words_once, documents)}
    runs_of = {size: [_runs_of(words, size) for words in words_said] for size in shortest if size}
    for runs in runs_of.values():
        for index, held in enumerate(runs):
            for run in held:
                places.setdefault(run, []).append(index)
    recited = [False] * len(answers)
    for words in map(_words_once, documents):
        size = min(_RUN, len(words))
        near = {index for run in _runs_of(words, size) for index in places.get(run, ())}
        for index in near:
            recited[index] = recited[index] or _copied(runs_of[size][index], words, right[index]) > 0.5
    return recited


@lru_cache(maxsize=1 << 17)  # the documents are the same at every evaluation
def _words_once(text: str) -> tuple[str, ...]:
    return tuple(words_of(text))


def _runs_of(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


def _copied(runs: set[tuple[str, ...]], words: Sequence[str], accepted: Sequence[Sequence[str]]) -> float:
    """As :func:`copied_share`, of an answer that holds ``runs`` of words."""
    size = min(_RUN, len(words))
    copied, beside = [False] * len(words), [True] * len(words)
    for start in range(len(words)):
        if tuple(words[start : start + size]) in runs:
            copied[start : start + size] = [True] * size
        for answer in accepted:
            if answer and list(words[start : start + len(answer)]) == list(answer):
                beside[start : start + len(answer)] = [False] * len(answer)
    counted = list(compress(copied, beside))
    return sum(counted) / max(len(counted), 1)


def length_in_words(text: str) -> int:
    """How many words ``text`` has; in scripts without spaces every character is one."""
    return len(word_spans(text))


# Refusals: answers that say that the model does not know. Whether it should have known is not decided here.


def _refusals() -> dict[str, list[str]]:  # pragma: no mutate block, runs at import, before a fault is set
    read = yaml.safe_load((Path(__file__).parent / "refusals.yaml").read_text(encoding="utf-8"))
    lists = {name: read.pop(name) for name in ("<known>", "<facts>")}
    for name, listed in lists.items():
        read = {language: [each.replace(name, listed) for each in patterns] for language, patterns in read.items()}
    return dict(read)


REFUSALS = _refusals()
"""Patterns of refusals by language, all of which are tried on every answer."""
_ANY_REFUSAL = regex.compile("|".join(f"(?:{pattern})" for patterns in REFUSALS.values() for pattern in patterns))
_EXCLAMATION = regex.compile(r"(?:(?:i am|i'm) (?:so )?)?sorry|hm+|well|oh|no\b")


def is_refusal(answer: str) -> bool:
    """Whether ``answer`` says in its first sentence that the model does not know, in any language of :data:`REFUSALS`."""
    text = fold_case(normalize(answer)).replace("’", "'").replace("ʼ", "'").strip()
    ends = [*sentence_ends(text), len(text)]
    short = ends[0] < 12 and _EXCLAMATION.match(text)  # "Sorry. I do not know."
    first = text[: max(ends[:2]) if short else ends[0]]
    return _ANY_REFUSAL.search(" ".join(first.split())) is not None


READINGS = {word: key for key, measure in MEASURES.items() for word in (measure.reading, key)}
"""The names under which a score can be asked for, and the key of a measurement that holds it."""

OTHER_WORDS = "other_words"
"""The key of a measurement that counts questions whose ``paper`` compares words that the paper's code cannot split."""

_FUNCTIONS = {"paper": paper_recall, "exact_match": exact_match, "f1": token_f1}
RECITED, REFUSED, WORDS = "recited", "refused", "words"
"""Keys of a measurement: the share of answers that recite a document, the share that refuse, and their mean length in words."""


def score_answers(
    questions: Sequence[Question],
    answers: Sequence[str],
    *,
    documents: Sequence[str] = (),
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score ``answers`` to ``questions`` (same order and length), each by the accepted answer that gives the best score.

    Args:
        documents: what was taught; where it is given, ``recited`` is the share of answers that :func:`recitations` finds.
        confidence: share of the bootstrap distribution that the percentile interval covers.
        resamples: bootstrap resamples per cell; the questions of a cell are drawn with replacement.
        seed: seed of the resampling. The interval of a cell depends on that cell's answers alone.

    Returns:
        ``{"forward": M, "backward": M, "groups": {"group/task/direction": M, ...}}`` with
        ``M = {"paper", "exact_match", "f1", "n", "ci": {"paper": [low, high], ...}, "words", "refused", "recited"}``, all
        in 0..1 except ``n`` and the mean length ``words``. A direction without questions has ``n = 0`` and zeros. If the
        paper's code, which is made for English, could not split some questions or their answers into words, ``M`` counts them
        under :data:`OTHER_WORDS`. Questions of unknown direction count in neither direction; if there are any, their scores
        are under ``"unknown": M``.

    Raises:
        KinjectError: the two sequences differ in length, or a setting is out of range.
    """
    if len(questions) != len(answers):
        raise KinjectError(f"{len(questions)} questions have {len(answers)} answers; pass one answer per question")
    if not 0 < confidence < 1:
        raise KinjectError(f"confidence: expected a number between 0 and 1, got {confidence}; the usual one is 0.95")
    if resamples < 1:
        raise KinjectError(f"resamples: expected at least 1, got {resamples}")
    directions: dict[str, list[int]] = {direction: [] for direction in DIRECTIONS}
    groups: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        directions.setdefault(question.direction, []).append(index)
        if question.group or question.task:
            parts = (question.group, question.task, question.direction)
            groups.setdefault("/".join(part for part in parts if part), []).append(index)
    values = np.array(  # (questions, measures)
        [
            [best_score(measure, answer, question.answers) for measure in _FUNCTIONS.values()]
            for question, answer in zip(questions, answers, strict=True)
        ]
    ).reshape(len(questions), len(_FUNCTIONS))

    other = np.array([not reads_as_published(each.question, *each.answers) for each in questions])
    looks = {
        WORDS: np.array([length_in_words(answer) for answer in answers]),
        REFUSED: np.array([is_refusal(answer) for answer in answers]),
    }
    if documents:
        looks[RECITED] = np.array(recitations(answers, documents, [each.answers for each in questions]))

    def measurement(indices: list[int]) -> dict[str, Any]:
        measured = _measurement(values[indices], confidence, resamples, seed)
        measured |= {name: float(each[indices].mean()) if indices else 0.0 for name, each in looks.items()}
        return measured | ({OTHER_WORDS: int(other[indices].sum())} if other[indices].any() else {})

    return {
        **{direction: measurement(indices) for direction, indices in directions.items()},
        "groups": {name: measurement(groups[name]) for name in sorted(groups)},
    }


def _measurement(values: np.ndarray, confidence: float, resamples: int, seed: int) -> dict[str, Any]:
    """Means and percentile intervals of ``values`` (n, measures)."""
    count = len(values)
    if count == 0:
        return {**dict.fromkeys(_FUNCTIONS, 0.0), "n": 0, "ci": {name: [0.0, 0.0] for name in _FUNCTIONS}}
    generator = np.random.default_rng(seed)
    times_drawn = generator.multinomial(count, np.full(count, 1 / count), size=resamples)  # (resamples, n)
    means = times_drawn @ values / count  # (resamples, measures)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return {
        **{name: float(value) for name, value in zip(_FUNCTIONS, values.mean(axis=0), strict=True)},
        "n": count,
        "ci": {name: [float(low[i]), float(high[i])] for i, name in enumerate(_FUNCTIONS)},
    }


def macro(scores: Mapping[str, Any], reading: str = "paper") -> float:
    """The mean of forward and backward in ``scores`` (as :func:`score_answers` returns them).

    ``reading`` is ``"paper"``, ``"strict"`` (exact match), ``"exact_match"`` or ``"f1"``. A direction without questions
    does not count; with none at all the mean is 0.

    Raises:
        KinjectError: an unknown reading.
    """
    if reading not in READINGS:
        raise KinjectError(f"reading: expected one of {', '.join(READINGS)}, got {reading!r}")
    measured = [scores[direction][READINGS[reading]] for direction in asked(scores)]
    return sum(measured) / len(measured) if measured else 0.0


def read_otherwise(scores: Mapping[str, Any] | None) -> str:
    """A sentence on the questions that the paper's code cannot split into words; empty where there are none."""
    measured = [scores[name] for name in cells(scores)] if scores is not None else []
    count, total = (sum(cell.get(key, 0) for cell in measured) for key in (OTHER_WORDS, "n"))
    if not count:
        return ""
    return f"for {count} of {total} questions, recall compares the words of their script: the paper's code splits English only"


def cells(scores: Mapping[str, Any] | None) -> list[str]:
    """Every cell of ``scores``: both directions, and ``unknown`` where some questions have none."""
    return [*DIRECTIONS, *([UNKNOWN] if scores is not None and UNKNOWN in scores else [])]


def share_of(scores: Mapping[str, Any] | None, name: str) -> float | None:
    """The mean of ``name`` over all questions of ``scores``; None where it was not measured."""
    measured = [scores[cell] for cell in cells(scores) if name in scores[cell]] if scores is not None else []
    count = sum(cell["n"] for cell in measured)
    return sum(cell[name] * cell["n"] for cell in measured) / count if count else None


def asked(scores: Mapping[str, Any] | None) -> list[str]:
    """The directions of which ``scores`` have questions; about the others nothing is known."""
    return [direction for direction in DIRECTIONS if scores is not None and scores[direction]["n"] > 0]
