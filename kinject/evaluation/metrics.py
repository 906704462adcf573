"""How one answer is scored against one reference: the paper's reading and the strict one.

``paper`` is the ROUGE-1 recall of arXiv 2510.09885 as its public code computes it. It counts an answer that recites a
whole passage as right, so ``strict`` (exact match and token F1, normalized as in SQuAD) stands beside it everywhere.
Every score lies in 0..1.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

STOP_WORDS = frozenset(["a", "of", "the", "and", "is", "are", "be", "to", "new", "on", "in", "at", "an", "for"])
"""The words that the paper drops from answer and reference, in any case, before it compares them."""

ARTICLES = frozenset({"a", "an", "the"})

_DROP_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
# What the paper's word tokenizer (NLTK's) still splits once ASCII punctuation is gone: typographic quotes and dashes
# become words of their own, and a few contractions become two words.
_STANDS_ALONE = re.compile("([\u00ab\u201c\u2018\u201e\u00bb\u201d\u2019\u2012-\u2015])")
_CONTRACTION = re.compile(
    r"(?i)\b(?:(can)(not)|(gim)(me)|(gon)(na)|(got)(ta)|(lem)(me))\b|\b(wan)(na)(?=\s|\Z)",
)
# Han and kana are written without spaces: every character is a token.
_UNSPACED = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f])")


def paper_words(text: str) -> list[str]:
    """The words of ``text`` that the paper compares: punctuation and stop words dropped, case kept."""
    text = _STANDS_ALONE.sub(r" \1 ", text.translate(_DROP_ASCII_PUNCTUATION))
    text = _CONTRACTION.sub(lambda found: " {} {} ".format(*(part for part in found.groups() if part)), text)
    return [word for word in text.split() if word.lower() not in STOP_WORDS]


def paper_recall(answer: str, reference: str) -> float:
    """ROUGE-1 recall of ``reference`` in ``answer``, as in the public code of arXiv 2510.09885.

    Equal to ``rouge`` 1.0.1 on NLTK words: both sides are *sets* of words, and the share of the reference's distinct
    words that the answer holds is returned. Where that code raises (no word is left on either side) it scores 0.
    """
    answered, expected = set(paper_words(answer)), set(paper_words(reference))
    if not answered or not expected:
        return 0.0
    return len(answered & expected) / len(expected)


def normalize_answer(text: str) -> str:
    """``text`` in compatibility form, lower case, without punctuation and articles, with single spaces.

    SQuAD's normalization for any script. A text of nothing but articles or punctuation ("A", "?") is kept as it is, so
    that it still equals itself and nothing else.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(c for c in folded if c not in string.punctuation and not unicodedata.category(c).startswith("P"))
    words = [word for word in kept.split() if word not in ARTICLES]
    return " ".join(words) or " ".join(folded.split())


def exact_match(answer: str, reference: str) -> float:
    """1 if ``answer`` equals ``reference`` after :func:`normalize_answer`, else 0."""
    return float(normalize_answer(answer) == normalize_answer(reference))


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the normalized tokens, each counted as often as it occurs (SQuAD)."""
    answered = Counter(_UNSPACED.sub(r" \1 ", normalize_answer(answer)).split())
    expected = Counter(_UNSPACED.sub(r" \1 ", normalize_answer(reference)).split())
    common = (answered & expected).total()
    if not common:
        return float(not answered and not expected)
    return 2 * common / (answered.total() + expected.total())


def best_score(measure: Callable[[str, str], float], answer: str, accepted: Sequence[str]) -> float:
    """What ``answer`` scores by ``measure`` against that of the ``accepted`` answers that it comes closest to."""
    return max(measure(answer, reference) for reference in accepted)
