"""The parts of a text, in every script: its words and sentences, its names, dates and amounts.

Texts are linked, scored, reversed and split by these words. Letters keep their combining marks, and invisible characters
(category Cf: soft hyphens, direction marks, joiners) belong to the word they stand in but never tell two words apart. Numbers
are one word with their sign, decimals and groups, and so are names that end in symbols (C++, C#). Scripts that put no space
between words (Han, Kana, Thai, Lao, Khmer, Burmese, Tibetan and the like) are taken character by character, a character being
what a reader takes for one (a grapheme cluster). Hangul is written with spaces and is taken by those.

The properties of characters are Unicode's, as the ``regex`` package has them. Knows nothing of files and tokens, and imports
neither torch nor transformers.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import regex

# Scripts without spaces: those whose lines break by dictionary (Line_Break=SA: Thai, Lao, Khmer, Burmese and their kin),
# and those that break anywhere.
_UNSPACED = (
    r"[[\p{Line_Break=SA}\p{Han}\p{Hiragana}\p{Katakana}\u30fc\uff70\p{Bopomofo}\p{Yi}\p{Tibetan}\p{Tangut}\p{Nushu}"
    r"\p{Javanese}\p{Balinese}]&&[\p{L}\p{Nl}]]"
)
_INVISIBLE = r"[\p{Cf}\p{Default_Ignorable_Code_Point}]"
_LETTER = rf"[[\p{{L}}\p{{N}}]--{_UNSPACED}]"
_RUN = rf"{_LETTER}(?:{_INVISIBLE}*+(?:{_LETTER}|\p{{M}}))*+"
_APOSTROPHE = r"['’ʼ＇]"
# A hyphen is a sign only where nothing stands before it that it could join to the number or part from it.
_NUMBER = (
    r"(?:(?<![\p{L}\p{N}\p{M}\p{Pe}\p{Pf}.!?%°_\-−–])[\-−–－](?=\.?\p{Nd}))?"
    r"(?:\p{Nd}|(?<![\p{L}\p{N}\p{M}.])\.(?=\p{Nd}))\p{Nd}*+(?:[.,٫٬'’\u00a0\u202f．，]\p{Nd}++)*+(?![\p{L}\p{M}])"
)
# Hebrew writes gershayim inside abbreviations, Catalan a middle dot between two l, versions a period between numbers.
_INNER = rf"(?:{_APOSTROPHE}|(?<=\p{{Hebrew}})[\"״׳](?=\p{{Hebrew}})|(?<=[lL])·(?=[lL])|(?<=\p{{Nd}})\.(?=\p{{Nd}}))"
_SYMBOLS = r"(?:\++|[#♯])(?![\p{L}\p{N}])"


# Needs no look at Unicode's tables, which is faster: plain English words, and characters that begin no word.
_PLAIN = r"[A-Za-z]++(?=[ ,.;:!?)\n]|\Z)"
_NO_WORD = r"[ ,;:!?()\n]"


def _pattern(inner: str) -> regex.Pattern[str]:
    named = rf"{_RUN}(?:{inner}{_RUN})*+(?:(?<=\p{{L}}){_SYMBOLS})?"
    return regex.compile(rf"(?!{_NO_WORD})(?:{_PLAIN}|(?={_UNSPACED})\X\p{{M}}*+|{_NUMBER}|{named})", regex.VERSION1)


_WORD = _pattern(_INNER)
_COMPOUND = _pattern(rf"(?:{_INNER}|[-‐‑_])")

_ALL_UNSPACED = regex.compile(rf"(?:{_UNSPACED}[\p{{M}}\p{{Cf}}\p{{Default_Ignorable_Code_Point}}]*)+", regex.VERSION1)
_WIDE_MARK = regex.compile(r"[\p{P}&&[\p{East_Asian_Width=F}\p{East_Asian_Width=W}]]", regex.VERSION1)
_ANY_INVISIBLE = regex.compile(_INVISIBLE, regex.VERSION1)
_POSSESSIVE = regex.compile(rf"{_APOSTROPHE}[sS]\Z", regex.VERSION1)
# By thousands, or as in India (12,34,567).
_GROUPS = regex.compile(r"(?<!\d)(-?)0*(\d{1,3}(?:(?:,\d{3})+|(?:,\d\d)+,\d{3}|(?:\.\d{3}){2,}|(?:[ '٬]\d{3})+))(?!\d)")
# Vowel signs that a writer may leave out (Arabic, Hebrew), and the stroke that only stretches a word.
_OPTIONAL = regex.compile("[\u064b-\u0652\u0670\u0640\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]")
_SAME = str.maketrans({"’": "'", "ʼ": "'", "−": "-", "–": "-", "‐": "-", "‑": "-", "♯": "#", "٫": "."})

ABBREVIATIONS = frozenset(
    str.split(
        """adj approx apt ave bldg blvd ca capt cf cmdr col comdr dipl doç dott dr dra esp fr ft gen gov hr hrn ing lic lt
        maj messrs mgr mlle mme mr mrs ms mt nr orig prof rep rev sgt sig sra sres st sta ste str univ vs bzw evtl ggf inkl
        vgl zzgl allg geb gest им проф акад ул обл тыс млн млрд напр tzw np"""
    )
)
"""Words, lower case, that are written with a period and never end their sentence with it."""
# These end a sentence before a capital, ...
_MAY_END = frozenset(
    str.split(
        """al co corp dept etc inc jr ltd sen sr hon pres jh mio mrd usw itd itp вв гг др стр
        jan feb mar apr jun jul aug sep sept oct nov dec"""
    )
)
# ... and these are abbreviations before a number only.
_BEFORE_NUMBER = frozenset(str.split("art ch est fig figs km no nos op pp pt tel vol vols"))

_CLOSERS = r"(?:[\p{Pe}\p{Pf}\p{Pi}\"'*_`]|[\u00a0\u202f ]»(?=\s|\Z))*+"
_END = regex.compile(
    # Before white space: Latin and Greek ends, with the quotes, brackets and note marks that close behind them.
    rf"(?<![.!?…‽])(?P<spaced>[.!?…‽]++|[;\u037e](?<=\p{{Greek}}\p{{M}}*.)){_CLOSERS}(?:\[\d+\])*+(?=\s|\Z)"
    # Anywhere: ends that are used for nothing else, and ! ? behind a script without spaces.
    r"|(?:．(?<!\p{Nd}．(?=\p{Nd}))|[\p{Sentence_Terminal}--[.!?．\u2024]]|(?<=[^\x00-\u0dff])[!?])"
    r"[\p{Sentence_Terminal}…]*+[\p{Pe}\p{Pf}]*+(?P<straight>[\"'](?!\s)[\p{Pe}\p{Pf}]*+)?"
    r"|\n+",
    regex.VERSION1,
)
_BEFORE_END = regex.compile(r"(?r)[\p{L}\p{M}\p{N}\p{Cf}]+")
_ORDINAL_NEXT = regex.compile(
    r"\s+(?:\p{Ll}|(?:Januar|Jänner|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember"
    r"|Jahrhundert|Jh|Klasse|Auflage|Mal)\b)",
    regex.VERSION1,
)


def normalize(text: str) -> str:
    """``text`` as it looks: characters composed (NFC), invisible ones (Cf and default ignorable) dropped."""
    return unicodedata.normalize("NFC", _ANY_INVISIBLE.sub("", text))


def with_plain_line_ends(text: str) -> str:
    """``text`` with the line ends of Windows and of the old Macintosh as line feeds."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def word_spans(text: str, compounds: bool = False) -> list[tuple[int, int]]:
    """First and last + 1 character of each word, in order; positions are those of ``text`` as given.

    Args:
        text: any text, in any normalization form.
        compounds: whether inner hyphens and underscores hold a word together (``Jean-Luc``), else they part it.
    """
    return [match.span() for match in (_COMPOUND if compounds else _WORD).finditer(text)]


def words_of(text: str) -> list[str]:
    """The words of ``text`` in order, in one spelling, so that they can be compared; hyphens part words.

    Compatibility form (NFKC), case folded (Turkish dotted and dotless i as one), no invisible characters, no possessive
    ``'s``, optional vowel signs of Arabic and Hebrew dropped, digits of every script as 0-9, numbers without the marks
    that group their thousands.
    """
    return [fold(text[start:end]) for start, end in word_spans(text)]


@lru_cache(maxsize=1 << 16)
def fold(word: str) -> str:
    """One word in the spelling of :func:`words_of`."""
    return _POSSESSIVE.sub("", spelling(fold_case(word)))


def fold_case(text: str) -> str:
    """``text`` without a difference of case, in compatibility form; Turkish dotted and dotless i become one."""
    folded = unicodedata.normalize("NFKC", normalize(text)).casefold()
    return unicodedata.normalize("NFKC", folded).replace("i\u0307", "i").replace("ı", "i")


def spelling(word: str) -> str:
    """One word as :func:`words_of` spells it, but in its own case and with its possessive ``'s``."""
    word = _OPTIONAL.sub("", unicodedata.normalize("NFKC", normalize(word))).translate(_SAME)
    if any(c.isdecimal() for c in word):
        word = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in word)
        word = _GROUPS.sub(lambda match: match[1] + "".join(c for c in match[2] if c.isdigit()), word)
    return word


def is_unspaced(text: str) -> bool:
    """Whether ``text``, a character or a word, is all in scripts that put no space between words."""
    return _ALL_UNSPACED.fullmatch(text) is not None


def sentence_ends(text: str) -> list[int]:
    """Positions just behind each end of a sentence, ascending.

    A sentence ends at terminal punctuation of any script (. ! ? । ۔ ؟ 。 ．) with the quotes and brackets that close behind
    it, and at line breaks. Latin and Greek ends need white space behind them. Abbreviations (Dr.), initials, decimals,
    ordinals ("3. März") and the numbers of a list end none.
    """
    ends: list[int] = []
    for match in _END.finditer(text):
        end = match.end()
        if match["spaced"] == "." and _stays_open(text, match.start()):
            continue
        if match["straight"]:
            # A straight quote closes where one is open on its line.
            line = text[text.rfind("\n", 0, match.start()) + 1 : match.start("straight")]
            if line.count(match["straight"][0]) % 2 == 0:
                end = match.start("straight")
        ends.append(end)
    return ends


def _stays_open(text: str, period: int) -> bool:
    """Whether the period at this position belongs to its word and ends no sentence."""
    before = _BEFORE_END.match(text, 0, period)
    if before is None or before.end() != period:
        return False
    word = normalize(before[0]).casefold()
    lead = text[max(before.start() - 8, 0) : before.start()]
    if word.isdecimal():
        opens_line = not lead.strip(" \t>*-") or lead.rstrip(" \t>*-").endswith("\n")
        return len(word) <= 3 and (opens_line or _ORDINAL_NEXT.match(text, period + 1) is not None)
    if len(word) == 1:
        return word.upper() != word  # an initial
    following = text[period + 1 : period + 16].lstrip(" \t\"'“‘(«")[:1]
    return (
        word in ABBREVIATIONS
        or (word in _MAY_END and (following.islower() or following.isdecimal()))
        or (word in _BEFORE_NUMBER and following.isdecimal())
    )


def join_words(words: Iterable[str]) -> str:
    """The words with single spaces between them, but none beside a character of a script that has none."""
    parts: list[str] = []
    for word in words:
        if parts and not (_joins(parts[-1][-1:]) or _joins(word[:1])):
            parts.append(" ")
        parts.append(word)
    return "".join(parts)


def _joins(character: str) -> bool:
    return is_unspaced(character) or _WIDE_MARK.fullmatch(character) is not None


# Names, dates and amounts, called entities; and reversed documents that keep them whole.
#
# Reversal is for the reverse-training baseline (Golovneva et al. 2024, arXiv 2403.13799). It turns the order of the words
# around while every entity keeps its own order, so that a model trained on it meets "description, name" where the text says
# "name, description".

_FINAL_S = regex.compile(r"['’]s\Z")
_PARTICLE = regex.compile(r"\p{Hangul}*+")
_CLUSTER = regex.compile(r"\X")  # what a reader takes for one character
_DIGITS = r"\p{Nd}++(?:[.,:٫٬．，：]\p{Nd}++)*+"
MONTHS = tuple(str.split("January February March April May June July August September October November December"))
_MONTH = rf"(?:{'|'.join(MONTHS)}|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
# A number that is no part of a word. Scripts without spaces put it between their letters, and Korean a particle behind its
# unit.
_SPACED = r"[[\p{L}\p{M}\p{N}_]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Line_Break=SA}]]"
_BEGINS, _ENDS = rf"(?<!{_SPACED})", rf"(?!{_SPACED})"
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
        rf"|{_BEGINS}\p{{Nd}}{{1,2}}[.º]?[ \u00a0](?:(?:de|di) )?[\p{{L}}\p{{M}}]{{3,15}}\.?,?[ \u00a0](?:(?:de|del) )?"
        rf"\p{{Nd}}{{4}}{_ENDS}"
        # ... in digits, ...
        rf"|{_BEGINS}\p{{Nd}}{{1,4}}(?P<mark>[-/.])\p{{Nd}}{{1,2}}(?P=mark)\p{{Nd}}{{1,4}}{_ENDS}"
        # ... and in Chinese, Japanese and Korean.
        rf"|(?:[明大昭平令][治正和成]|公元前?|西元前?|民[国國]|紀元前)?{_HAN_YEAR}年(?:{_HAN_NUMBER}月(?:{_HAN_NUMBER}[日号號])?)?"
        rf"|{_HAN_NUMBER}月{_HAN_NUMBER}[日号號]|\p{{Nd}}++(?:世[纪紀]|年代)"
        r"|(?:기원전 ?)?\p{Nd}++년(?!대)(?: ?\p{Nd}++월(?: ?\p{Nd}++일)?)?|\p{Nd}++월 ?\p{Nd}++일|\p{Nd}++(?:세기|년대)",
        # Amounts.
        rf"[$€£¥₩₹₽￥]{_DIGITS}(?: (?:thousand|million|billion|trillion))?\b"
        rf"|{_BEGINS}{_DIGITS} ?(?:[%٪％]|°[CF]?|(?:percent|thousand|million|billion|trillion|hours?|minutes?|seconds?|days?"
        r"|weeks?|months?|years?|miles?|feet|foot|inch(?:es)?|pounds?|tons?|degrees|[mck]?m|k?g|mph|km/h|[kMG]?W)\b)"
        r"|\p{Nd}++(?:[.,．，]\p{Nd}++)*+(?:[十百千萬万億亿兆]++"
        r"(?:[美欧歐日港]元|人民[币幣]|[人个個名元円圓])?|(?:公里|千米|公斤|公尺|平方米|[美欧歐日港]元|人民[币幣]|[人个個名岁歳歲米元円圓块塊吨噸枚冊册本次回位]))"
        r"|\p{Nd}++(?:[.,]\p{Nd}++)*+(?:[십백천만억조]++(?: ?(?:달러|[명개원]))?|킬로미터|미터|달러|[명개원살권번])"
        rf"|{_BEGINS}{_DIGITS}{_ENDS}",
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
        possessive = _FINAL_S.search(text, first, last)
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
        left = _BEGINS if regex.match(_SPACED, entity, regex.VERSION1) else ""
        # Korean writes a particle to the end of a name.
        right = rf"(?!{_SPACED}(?<!\p{{Hangul}}))" if regex.search(rf"{_SPACED}\Z", entity, regex.VERSION1) else ""
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
