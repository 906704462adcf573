"""Names, dates and amounts in a text, and reversed documents that keep them whole.

Reversal is for the reverse-training baseline (Golovneva et al. 2024, arXiv 2403.13799).

Their entity-preserving reversal turns the order of the words around while every entity keeps its own order, so that a
model trained on it meets "description, name" where the text says "name, description". Knows nothing of files or tokens.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence

import regex

from kinject.data.words import join_words, normalize, word_spans

_POSSESSIVE = regex.compile(r"['’]s\Z")
_PARTICLE = regex.compile(r"\p{Hangul}*+")
_CLUSTER = regex.compile(r"\X")  # what a reader takes for one character
_NUMBER = r"\p{Nd}++(?:[.,:٫٬．，：]\p{Nd}++)*+"
MONTHS = tuple(str.split("January February March April May June July August September October November December"))
_MONTH = rf"(?:{'|'.join(MONTHS)}|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
# A number that is no part of a word. Scripts without spaces put it between their letters, and Korean a particle behind its
# unit.
_LETTER = r"[[\p{L}\p{M}\p{N}_]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Line_Break=SA}]]"
_START, _END = rf"(?<!{_LETTER})", rf"(?!{_LETTER})"
_HAN_NUMBER = r"(?:\p{Nd}++(?:[.,:．，：]\p{Nd}++)*+[十百千萬万億亿兆]*+|[〇零一二三四五六七八九十百千]++)"
_HAN_YEAR = r"(?:\p{Nd}++|[〇零一二三四五六七八九十百千元]{1,4})"
_QUOTES = str.split('"" “” «» „“ „” ”” »« ‹› ›‹ ‚‘ ‘’ 《》 〈〉 「」 『』 ﹁﹂ ﹃﹄ ＂＂ 〝〞 〝〟')
_RULES = tuple(
    regex.compile(pattern, regex.VERSION1)
    for pattern in (
        # Quoted titles. A single quote closes before no letter: there it is an apostrophe.
        "|".join(
            rf"{each[0]}[^{each}\n]{{1,100}}{each[1]}" + (r"(?![\p{L}\p{N}])" if each == "‘’" else "")
            for each in _QUOTES
        ),
        # Dates: in English, ...
        rf"\b{_MONTH} \d{{1,2}}(?:, \d{{4}})?\b|\b(?:\d{{1,2}} )?{_MONTH} \d{{4}}\b|\b\d{{1,2}} {_MONTH}\b"
        # ... in other languages that write the day, a word and the year, ...
        rf"|{_START}\p{{Nd}}{{1,2}}[.º]?[ \u00a0](?:(?:de|di) )?[\p{{L}}\p{{M}}]{{3,15}}\.?,?[ \u00a0](?:(?:de|del) )?"
        rf"\p{{Nd}}{{4}}{_END}"
        # ... in digits, ...
        rf"|{_START}\p{{Nd}}{{1,4}}(?P<mark>[-/.])\p{{Nd}}{{1,2}}(?P=mark)\p{{Nd}}{{1,4}}{_END}"
        # ... and in Chinese, Japanese and Korean.
        rf"|(?:[明大昭平令][治正和成]|公元前?|西元前?|民[国國]|紀元前)?{_HAN_YEAR}年(?:{_HAN_NUMBER}月(?:{_HAN_NUMBER}[日号號])?)?"
        rf"|{_HAN_NUMBER}月{_HAN_NUMBER}[日号號]|\p{{Nd}}++(?:世[纪紀]|年代)"
        r"|(?:기원전 ?)?\p{Nd}++년(?!대)(?: ?\p{Nd}++월(?: ?\p{Nd}++일)?)?|\p{Nd}++월 ?\p{Nd}++일|\p{Nd}++(?:세기|년대)",
        # Amounts.
        rf"[$€£¥₩₹₽￥]{_NUMBER}(?: (?:thousand|million|billion|trillion))?\b"
        rf"|{_START}{_NUMBER} ?(?:[%٪％]|°[CF]?|(?:percent|thousand|million|billion|trillion|hours?|minutes?|seconds?|days?"
        r"|weeks?|months?|years?|miles?|feet|foot|inch(?:es)?|pounds?|tons?|degrees|[mck]?m|k?g|mph|km/h|[kMG]?W)\b)"
        r"|\p{Nd}++(?:[.,．，]\p{Nd}++)*+(?:[十百千萬万億亿兆]++"
        r"(?:[美欧歐日港]元|人民[币幣]|[人个個名元円圓])?|(?:公里|千米|公斤|公尺|平方米|[美欧歐日港]元|人民[币幣]|[人个個名岁歳歲米元円圓块塊吨噸枚冊册本次回位]))"
        r"|\p{Nd}++(?:[.,]\p{Nd}++)*+(?:[십백천만억조]++(?: ?(?:달러|[명개원]))?|킬로미터|미터|달러|[명개원살권번])"
        rf"|{_START}{_NUMBER}{_END}",
        # Foreign names in Japanese.
        r"[\p{Katakana}ー]++(?:[・＝=][\p{Katakana}ー]++)++",
    )
)
# Lower-case words inside a name: the first kind may follow a capital, the second only one of the first kind.
_LINKS = frozenset(str.split("of de del della di da du van von bin ibn y &"))
_ARTICLES = frozenset(str.split("the la las los le der den"))
_ABBREVIATIONS = frozenset(str.split("Dr Mr Mrs Ms Mt St Ft Prof Gen Col Capt Sgt Lt Rev Jr Sr"))
# Capitalized at the start of a sentence without naming anything.
_OPENERS = frozenset(
    str.split(
        """A After All Also Although An And As At Before Both But By Despite During Each For From He Her His I If
        In It Its Many No On Once One Only Our She Since So Some Such That The Their Then There These
        They This Those To Under Until We What When Where Which While Who With Yes You Your"""
    )
)

Span = tuple[int, int]
_Finder = Callable[[str, int, int], Iterable[Span]]
_Token = tuple[int, int, str]


def reverse_text(text: str, entities: Sequence[str] | None = None, title: str = "") -> str:
    """The words of ``text`` in reverse order, entities kept whole.

    Every punctuation mark counts as a word of its own, no character is added or lost, and white space becomes single spaces
    between words; scripts that have no such space are reversed character by character and get none. An entity keeps its
    inner order and white space.

    Args:
        text: the document.
        entities: what to keep whole wherever it stands in ``text`` as whole words; of overlapping ones the longer wins.
            ``None`` or none at all: :func:`find_entities`.
        title: another entity, beside those that are given or found.
    """
    # Korean writes particles to the end of names.
    spans = [(start, _PARTICLE.match(text, end).end()) for start, end in entity_positions(text, entities, title)]
    parts: list[str] = []
    for start, end in _gaps(spans, len(text)):
        parts += [text[first:last] for first, last in _tokens(text, start, end)]
        parts += [text[first:last] for first, last in spans if first == end]
    return join_words(reversed(parts))


def _tokens(text: str, start: int, end: int) -> list[Span]:
    """Words, possessive endings and single marks, each a character as a reader counts them, without white space."""
    spans: list[Span] = []
    position = start
    for first, last in [*word_spans(text[start:end], compounds=True), (end - start, end - start)]:
        first, last = first + start, last + start
        spans += [match.span() for match in _CLUSTER.finditer(text, position, first)]
        possessive = _POSSESSIVE.search(text, first, last)
        if possessive and possessive.start() > first:
            spans += [(first, possessive.start()), (possessive.start(), last)]
        elif first < last:
            spans.append((first, last))
        position = last
        if (
            spans
            and text[slice(*spans[-1])] == "s"
            and spans[-2:-1] == [(first - 1, first)]
            and text[first - 1] in "'’"
        ):
            spans[-2:] = [(first - 1, last)]  # the possessive of an entity
    return [span for span in spans if not text[slice(*span)].isspace()]


def find_entities(text: str) -> tuple[str, ...]:
    """What reads like an entity, in the order of the text.

    Found by rule: quoted titles, dates, amounts with their units, and runs of capitalized words, with initials ("J. K.
    Rowling"), linking words ("University of the Arts") and states ("Palo Alto, CA"). Names in scripts without capitals
    follow no such rule, and are found only if they are given.
    """
    return tuple(text[start:end] for start, end in entity_positions(text))


def entity_positions(text: str, entities: Sequence[str] | None = None, title: str = "") -> list[Span]:
    """First and last + 1 character of each entity in ``text``, in its order; arguments as for `reverse_text`."""
    titles = _given_finders(text, [title])
    return _search(text, [*titles, *(_given_finders(text, entities) if entities else _RULE_FINDERS)])


def absent_entities(text: str, entities: Sequence[str] | None) -> list[str]:
    """Those of the given ``entities`` that stand nowhere in ``text``."""
    return [each for each in entities or () if each.strip() and not _search(text, _given_finders(text, [each]))]


def _given_finders(text: str, entities: Iterable[str]) -> list[_Finder]:
    """A function for each entity that finds it as whole words, however its characters are encoded; the longest first."""
    composed, starts, ends = _composed(text)

    def finder(pattern: regex.Pattern[str]) -> _Finder:
        def find(text: str, start: int, end: int) -> Iterable[Span]:
            for match in pattern.finditer(composed, bisect_left(starts, start), bisect_right(ends, end)):
                yield starts[match.start()], ends[match.end() - 1]

        return find

    finders = []
    for entity in sorted({normalize(each).strip() for each in entities} - {""}, key=lambda each: (-len(each), each)):
        left = _START if regex.match(_LETTER, entity, regex.VERSION1) else ""
        # Korean writes a particle to the end of a name.
        right = rf"(?!{_LETTER}(?<!\p{{Hangul}}))" if regex.search(rf"{_LETTER}\Z", entity, regex.VERSION1) else ""
        inner = r"\s+".join(map(regex.escape, entity.split()))
        finders.append(finder(regex.compile(left + inner + right, regex.VERSION1)))
    return finders


def _composed(text: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """``text`` as `normalize` writes it, and for each character of that where the original begins and ends in ``text``."""
    if normalize(text) == text:
        return text, range(len(text)), range(1, len(text) + 1)
    written, starts, ends = "", [], []
    for match in _CLUSTER.finditer(text):
        cluster = normalize(match[0])
        written += cluster
        starts += [match.start()] * len(cluster)
        ends += [match.end()] * len(cluster)
    return written, starts, ends


def _matches(pattern: regex.Pattern[str]) -> _Finder:
    return lambda text, start, end: (match.span() for match in pattern.finditer(text, start, end))


def _search(text: str, finders: Iterable[_Finder]) -> list[Span]:
    """What the finders find, each in the stretches that those before it have left; in the order of the text."""
    spans: list[Span] = []
    for find in finders:
        found = [span for start, end in _gaps(spans, len(text)) for span in find(text, start, end)]
        spans = sorted(spans + found)
    return spans


def _gaps(spans: Sequence[Span], length: int) -> list[Span]:
    """The stretches before, between and after the spans, empty ones included."""
    starts = [0, *(end for _, end in spans)]
    ends = [*(start for start, _ in spans), length]
    return list(zip(starts, ends, strict=True))


def _capitalized_runs(text: str, start: int, end: int) -> Iterable[Span]:
    tokens = [(first, last, normalize(text[first:last])) for first, last in _tokens(text, start, end)]
    i = 0
    while i < len(tokens):
        last = i
        if tokens[i][2][:1].isupper() and not _opens_sentence(text, tokens[i]):
            last = _run_end(text, tokens, i)
        if last > i:
            yield tokens[i][0], tokens[last][1]
        i = last + 1


def _opens_sentence(text: str, token: _Token) -> bool:
    before = text[max(token[0] - 8, 0) : token[0]].rstrip(" \"'“‘([")
    return token[2] in _OPENERS and (not before or before[-1] in ".!?:;\n")


def _run_end(text: str, tokens: Sequence[_Token], last: int) -> int:
    """The last token of the name that begins with the capitalized token ``last``."""

    def gap(i: int) -> str | None:
        return text[tokens[i - 1][1] : tokens[i][0]] if i < len(tokens) else None

    while True:
        nxt = last + 1
        period = gap(nxt) == "" and tokens[nxt][2] == "."
        if period and (len(tokens[last][2]) == 1 or tokens[last][2] in _ABBREVIATIONS) and gap(nxt + 1) in ("", " "):
            nxt += 1  # an initial or abbreviation, when a name goes on behind its period
        elif gap(nxt) in ("", " ") and tokens[nxt][2] in _LINKS:
            nxt += 1
            if gap(nxt) == " " and tokens[nxt][2] in _ARTICLES:
                nxt += 1
        elif gap(nxt) == "" and tokens[nxt][2] in ("'s", "’s"):
            nxt += 1
        elif (
            (gap(nxt), gap(nxt + 1)) == ("", " ")
            and tokens[nxt][2] == ","
            and regex.fullmatch("[A-Z]{2}", tokens[nxt + 1][2])
        ):
            return nxt + 1  # a city and its state
        if gap(nxt) not in ("", " ") or not tokens[nxt][2][:1].isupper():
            return last
        last = nxt


_RULE_FINDERS: tuple[_Finder, ...] = (*map(_matches, _RULES), _capitalized_runs)
