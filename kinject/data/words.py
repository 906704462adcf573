"""What a word is, in every script: texts are linked, scored, reversed and split by these words.

Letters keep their combining marks, and invisible characters (category Cf: soft hyphens, direction marks, joiners) belong
to the word they stand in but never tell two words apart. Numbers are one word with their sign, decimals and groups, and so
are names that end in symbols (C++, C#). Scripts that put no space between words (Han, Kana, Thai, Lao, Khmer, Burmese,
Tibetan and the like) are taken character by character, a character being what a reader takes for one (a grapheme
cluster). Hangul is written with spaces and is taken by those.

The properties of characters are Unicode's, as the ``regex`` package has them. Neither torch nor transformers is imported
here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
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
