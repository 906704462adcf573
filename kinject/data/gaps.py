"""Questions to practice with, made of a document's own sentences: one name, value or phrase is left out, and is the answer.

The answer stands word for word in the document, and what is left of the sentence is the question. Subjects and objects are
left out equally often, so that each is asked for from the other side. Names, dates and amounts are found by rule in every
script that `kinject.data.words` reads; other phrases, and what a sentence that begins with "it" is about, in English alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import regex

from kinject.data.words import MONTHS, entity_positions, sentence_ends, word_spans, words_of

# Words that carry grammar: phrases are what stands between them.
FUNCTION_WORDS = frozenset(
    str.split(
        """a about above after again against all along also although am among an and any are around as at away be because been
        before being below between both but by can could did do does down during each either even every few first for from
        further had has have he her here hers him his how i if in into is it its itself just last less like made many may me
        might more most much must my near neither next no nor not now of off often on once one only onto or other our out over
        own per rather said same she should since so some still such than that the their them then there these they this those
        though through thus to too toward towards two under until up upon us very was we were what when where whether which
        while who whom whose why will with within without would yet you your"""
    )
)
_PERSON, _THING = regex.compile(r"(?:He|She|His|Her)(?=\s)"), regex.compile(r"(?:It|They|Its|Their)(?=\s)")
# A sentence may end with the abbreviation of a state; that it ends there shows in how the next one begins.
_AFTER_STATE = regex.compile(r"(?<=\p{Lu}\.)\s+(?=(?:He|She|It|They|His|Her|Its|Their)\s)")
_MONTH = rf"\b(?:{'|'.join(MONTHS)})\b"
_DATE = regex.compile(rf"{_MONTH}.*\d|\d.*{_MONTH}")
_POSSESSIVE = ("His", "Her", "Its", "Their")
# Words that may stand before a phrase.
_LEADS = frozenset(str.split("a an the of in for by with to as at on from into through its their his her called"))
_LONGEST_PHRASE = 6  # words
_WORDS = regex.compile(r"\p{L}+")
_MOST_WORDS = 18  # of a sentence on either side of a gap
_QUOTES = "\"'“”‘’«»„"
_BEGINNING = 16  # characters that may stand before what a text is about
_SHORT = 3  # letters of a word that is no noun to ask with
_SMALL_WORDS = 0.2  # share of an English text, and more than in texts of other languages
_GAPS_A_QUESTION = 2  # as of a statement: a name and a description, one of which an epoch asks for
_FEW = 2  # names and values of a sentence, from which on its other phrases are not asked for


class Gap(NamedTuple):
    """What a sentence leaves out.

    Attributes:
        before, after: The rest of the sentence, or of several.
        answer: What stood between.
        about: Whether the answer is what the document is about.
        person: Whether the answer is a person.
        english: Whether it can be asked for in English words.
        noun: What the document is about, as a noun, such as "mosque"; "" where that is not known.
    """

    before: str
    after: str
    answer: str
    about: bool
    person: bool
    english: bool
    noun: str = ""


def is_english(text: str) -> bool:
    """Whether ``text`` is English, as far as its small words tell."""
    words = words_of(text)
    return bool(words) and sum(word.lower() in FUNCTION_WORDS for word in words) >= _SMALL_WORDS * len(words)


def subject_of(text: str, entities: Sequence[str] = (), title: str = "") -> str:
    """What ``text`` is about: its title, or the name that stands first in it; "" where nothing is found."""
    if title.strip():
        return title.strip()
    if entities and entities[0] in text:
        return entities[0]
    spans = entity_positions(text, entities)
    names = [text[start:end] for start, end in spans if text[start:end].lstrip(_QUOTES)[:1].isupper()]
    return (names or [""])[0]


def _begins_with(text: str, subject: str) -> bool:
    """Whether the first sentence of ``text`` begins with ``subject``, so that "it" and "she" mean that."""
    return bool(subject) and 0 <= text.find(subject) <= _BEGINNING


def gaps(text: str, entities: Sequence[str] = (), title: str = "", phrases: Sequence[str] = ()) -> list[Gap]:
    """Every gap that a sentence of ``text`` may have.

    Args:
        text: A document.
        entities: What it names, if that is known; else found by rule.
        title: What it is about.
        phrases: What else of it may be asked for, such as a description.
    """
    subject = subject_of(text, entities, title)
    person = bool(regex.search(r"\b(?:he|she|his|her|who)\b", text, regex.IGNORECASE)) and len(subject.split()) in (
        2,
        3,
    )
    english = is_english(text)
    nouns = nouns_of(text, subject) if english and not person else ()
    noun = nouns[0] if nouns else ""
    begins = _begins_with(text, subject) or (bool(title) and _THING.match(text) is not None) or bool(title and nouns)
    found: list[Gap] = []
    for sentence in sentences(text):
        match = _reference(sentence, nouns, person) if english and begins else None
        if match is None and english and (_PERSON.match(sentence) or _THING.match(sentence)):
            continue  # without the text before it nobody knows whom it is about
        if match:
            owner = f"{subject}'s" if match[0] in _POSSESSIVE else subject
            rest = sentence[match.end() :]
            ending = "'s" if match[0] in _POSSESSIVE else ""
            found.append(Gap("", ending + rest, subject, True, person, english, noun))
            sentence = owner + rest
        named = entity_positions(sentence, [*entities, *phrases] or None, title)
        ruled = entity_positions(sentence) if entities or phrases else named
        spans = [*named, *(span for span in ruled if not _overlaps(span, named))]
        if english and len(spans) < _FEW:
            spans += [span for span in _phrases(sentence) if not _overlaps(span, spans)]
        for start, end in spans:
            answer = sentence[start:end].strip(" ,;:")
            about = answer == subject
            if answer and (not about or match is None) and not (match and start < len(owner)):
                found.append(
                    Gap(
                        sentence[:start],
                        sentence[end:],
                        answer,
                        about,
                        about and person,
                        english,
                        noun if about else "",
                    )
                )
    return found


def nouns_of(text: str, subject: str) -> tuple[str, ...]:
    """What English ``text`` calls its ``subject``: "mosque" where it "was a mosque", "strait" of the "Strait of Hormuz"."""
    found: list[str] = []
    named = regex.search(
        rf"{regex.escape(subject)}[^.!?]{{0,40}}? (?:is|was|are|were|will be) (?:an?|the) ([^.,;:()]+)", text
    )
    for word in named[1].split() if named and subject else ():
        if word.lower() in FUNCTION_WORDS or not word.isalpha() or (found and word.endswith("ed")):
            break
        found[:] = [word] if word.islower() else []
    words = set(_WORDS.findall(text))
    found += [
        word.lower() for word in _WORDS.findall(subject) if len(word) > _SHORT and {word.lower()} <= words - {word}
    ]
    return tuple(dict.fromkeys(found))


def _reference(sentence: str, nouns: Sequence[str], person: bool) -> regex.Match[str] | None:
    """The words at the beginning of ``sentence`` that stand for what its document is about."""
    named = regex.compile(rf"The (?:{'|'.join(map(regex.escape, nouns))})(?= )") if nouns else None
    return (_PERSON if person else _THING).match(sentence) or (named.match(sentence) if named else None)


def sentences(text: str) -> list[str]:
    """The sentences of ``text``, without white space around them."""
    ends = sorted({0, *sentence_ends(text), *(match.start() for match in _AFTER_STATE.finditer(text)), len(text)})
    parts = [" ".join(text[start:end].split()) for start, end in zip(ends, ends[1:], strict=False)]
    return [part for part in parts if part]


def _overlaps(span: tuple[int, int], others: Sequence[tuple[int, int]]) -> bool:
    return any(span[0] < end and span[1] > start for start, end in others)


def _phrases(sentence: str) -> list[tuple[int, int]]:
    """Runs of words without a function word among them, behind an article or a preposition and at most so long."""
    runs: list[tuple[int, int]] = []
    words = word_spans(sentence, compounds=True)
    run: list[tuple[int, int]] = []
    lead = ""  # the function word before the run
    for index, (first, last) in enumerate([*words, (len(sentence), len(sentence))]):
        word = sentence[first:last].lower()
        apart = index > 0 and sentence[words[index - 1][1] : first].strip() != ""
        if run and (apart or not word or word in FUNCTION_WORDS):
            if lead in _LEADS and len(run) <= _LONGEST_PHRASE:
                runs.append((run[0][0], run[-1][1]))
            lead, run = "", []
        if word in FUNCTION_WORDS:
            lead = word
        elif word:
            run.append((first, last))
    return runs


_TEMPLATES = (
    "{blank}\nWhat belongs in the blank?",
    "Fill in the blank: {blank}",
    "{blank}\nWhat is missing?",
    "{what}?",
    "{what}?",
    "{what}?",
    "Please answer: {what}?",
    "Question: {what}?",
    "{what}? Answer in a few words.",
    "Do you know this? {what}?",
)


def _nearest(text: str, last: bool) -> str:
    """What stands near the gap of a long sentence: its last or first words, from or up to the border of a clause."""
    words = text.split()
    if len(words) <= _MOST_WORDS:
        return text
    near = words[-_MOST_WORDS:] if last else words[:_MOST_WORDS]
    borders = [index for index, word in enumerate(near) if word[-1] in ",;:"]
    if last:
        near = near[borders[0] + 1 :] if borders and borders[0] + 1 < len(near) else near
    else:
        near = near[: borders[-1] + 1] if borders else near
    joined = " ".join(near)
    return joined + " " * text[-1].isspace() if last else " " * text[0].isspace() + joined.rstrip(",;:")


def _question_word(gap: Gap) -> str:
    """What asks for the answer of ``gap`` in its place."""
    if gap.person:
        return "who"
    if gap.noun and not gap.before.strip():
        return f"which {gap.noun}"
    if regex.fullmatch(r"1\d{3}|20\d\d", gap.answer):
        return "what year"
    if _DATE.search(gap.answer):
        return "what date"
    if gap.answer[0].isupper() and regex.search(r"\b(?:in|at|near|from)\s*\Z", gap.before):
        return "what place"
    return "what"


def gap_question(found: Sequence[Gap], rng: random.Random) -> tuple[str, str] | None:
    """A question with its answer, drawn from ``found``; None where that is empty.

    The subject of the document and what else it names are asked for equally often.
    """
    sides = [each for each in ([gap for gap in found if gap.about], [gap for gap in found if not gap.about]) if each]
    if not sides:
        return None
    gap = rng.choice(rng.choice(sides))
    before, after = gap.before, gap.after
    if not gap.english:
        return f"{before}___{after}", gap.answer
    if gap.about and rng.random() < 0.5:  # more of what is said of it
        others = [each for each in found if each.about and each is not gap and not each.before]
        for other in rng.sample(others, min(len(others), rng.randint(1, 2))):
            more = f"whose{other.after[2:]}" if other.after.startswith("'s") else other.after.strip()
            after = f"{after.rstrip('. ')}, and {more}"
    before, after = _nearest(before, last=True), _nearest(after, last=False)
    word = _question_word(gap)
    what = f"{before}{word if before.strip() else word[0].upper() + word[1:]}{after}".rstrip(".!?。 ")
    blank = f"{before}___{after}"
    return rng.choice(_TEMPLATES).format(what=what, blank=blank), gap.answer


def gap_questions(found: Sequence[Gap], rng: random.Random) -> list[tuple[str, str]]:
    """Questions with their answers, drawn from ``found`` as by `gap_question`: one for every two gaps, none twice.

    A paragraph says more than a statement, so each of its facts is asked for as often only if it gets more questions.
    """
    drawn = [gap_question(found, rng) for _ in range(max(1, len(found) // _GAPS_A_QUESTION))]
    return list(dict.fromkeys(each for each in drawn if each))
