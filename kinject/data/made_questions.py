"""Questions about documents that have none: by rule, of what a sentence says of its names, dates and amounts; or written.

Each sentence gives a gap to fill and, where its form allows one, a question: forward, where the answer stands behind its cue,
and backward, where it stands before. The direction is known by construction, and every answer stands in the document. The forms
are English; a sentence of another language gives gaps alone. What a language model writes is kept if its answer is short and
stands in the document, if the order of cue and answer tells its direction, and if a reader finds it with the document in
view; the writer may be a model on a server. Loads no model. Those that a model practices with are made in `gaps.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kinject.data.direction import FactIndex, text_direction
from kinject.data.knowledge import DIRECTIONS, Direction, Document, Question
from kinject.data.words import MONTHS, entity_positions, sentence_ends, words_of
from kinject.errors import ConfigurationError, DataError

MADE_BY_RULE, MADE_BY_MODEL = "made by rule", "made by model"
"""The groups of questions that no person wrote, by which they are recognized when they are read again."""

_BE = "is|was|are|were"
_PAST = "became|won|wrote|built|made|led|left|began|grew|held|met|took|gave|found|sold|taught|ran|sang|drew|kept|lost"
_VERB = re.compile(rf"(?:{_BE}|has|had|{_PAST}|[a-z]{{2,}}ed|[a-z]{{2,}}[^s\W\d]s)\b")
_PRESENT = re.compile(r"(?P<verb>[a-z]{2,}[^s\W\d]s) (?P<rest>.+)")
_PASSIVE = re.compile(
    rf"(?P<be>{_BE}) (?P<verb>born|[a-z]+(?:ed|en|lt|ilt|und|ung|ade)) (?P<prep>in|at|on|by) (?P<what>.+)"
)
# What a sentence says of a name beside its verb: "X, the keeper of Y, ..." and "Known as the keeper of Y, X ...".
_NOUNS = re.compile(r"(?:the|a|an|one of the) (?=\S+ \S)")
_KNOWN = re.compile(
    r"(?P<known>(?:best |widely |well )?(?:known|famous|famed|renowned|celebrated|remembered|noted|regarded))"
    r"(?P<how> [a-z ]+?)?? (?P<prep>for being|for having|as|for) (?P<what>.+)"
)
_FRONTED = re.compile(
    r"(?:Best |Widely |Well )?(?:known|famous|famed|renowned|celebrated|born|[a-z]{3,}ed) ", re.IGNORECASE
)
_OBJECT = re.compile(r"(?:the|a|an|his|her|its|their|two|three|four|five|[A-Z0-9])")
_PRONOUN = re.compile(r"(?:(?P<whole>He|She|It|They)|(?P<own>His|Her|Its|Their)) (?=\w)")
_PAIR = re.compile(r"(?P<name>[^\s:|#][^:|\n]{0,39}): (?P<value>\S[^\n]*)")
_PLACE_OR_TITLE = re.compile(
    r"\b(?:The|University|Company|Inc|Ltd|Museum|School|River|Lake|Mount|Street|City|Band|Club|Institute)\b"
)
_DATE = re.compile(rf"\b\d{{4}}\b|\b(?:{'|'.join(MONTHS)})\b")
_LONGEST_ANSWER = 14  # words
_GAP = "___"


def make_questions(documents: Sequence[Document], count: int | None = None) -> tuple[Question, ...]:
    """Questions about ``documents``, each with one answer, in the group `MADE_BY_RULE`.

    A question that two documents answer differently is left out. The task of a question is ``question`` or ``gap``.

    Args:
        documents: what is asked about; of several wordings of a fact the first counts.
        count: how many at most, spread evenly over documents and directions, questions before gaps. Default: all.
    """
    made: dict[str, Question] = {}
    answers: dict[str, set[str]] = defaultdict(set)
    seen: set[int] = set()
    for document in documents:
        if document.fact in seen or document.messages:
            continue
        seen.add(document.fact)
        for question in _about(document):
            key = " ".join(words_of(question.question))
            answers[key].add(" ".join(words_of(question.answer)))
            made.setdefault(key, question)
    kept = [question for key, question in made.items() if len(answers[key]) == 1]
    return tuple(kept if count is None else spread(kept, count))


def spread(questions: Sequence[Question], count: int) -> list[Question]:
    """``count`` of the questions, taken in turn from every document and direction; their order is kept."""
    queues: dict[tuple[int | None, str], list[int]] = defaultdict(list)
    for place, question in enumerate(questions):
        queues[question.fact, question.direction].append(place)
    for queue in queues.values():
        queue.sort(key=lambda place: (questions[place].task != "question", place))
    taken: list[int] = []
    round_ = 0
    while len(taken) < min(count, len(questions)):
        turns = {
            wanted: [
                queue[round_] for (_, direction), queue in queues.items() if direction == wanted and len(queue) > round_
            ]
            for wanted in DIRECTIONS
        }
        room = count - len(taken)
        forward, backward = (len(turns[direction]) for direction in DIRECTIONS)
        share = max(min(forward, (room + 1) // 2), room - backward)
        # Where a round holds more than fits, documents are left out at even distances, and others in the other direction.
        for turn, size, shift in (
            (turns["forward"], min(share, forward), 0),
            (turns["backward"], min(room - share, backward), 1),
        ):
            taken += [turn[(2 * position + shift) * len(turn) // (2 * size)] for position in range(size)]
        round_ += 1
    return [questions[place] for place in sorted(taken)]


def _about(document: Document) -> Iterator[Question]:
    text = f" {' '.join(words_of(document.titled_text))} "
    for direction, task, question, answer in _asked(document):
        answer = answer.strip(' "“”„«».,;:')
        answer += '"' * (answer.count('"') % 2)  # a quote that the end of a sentence closed
        words = answer.split()
        stands = bool(words) and f" {' '.join(words_of(answer))} " in text
        if stands and len(words) <= _LONGEST_ANSWER and len(question.split()) > 2:
            yield Question(question, answer, direction, MADE_BY_RULE, task, document.fact, document.source)


_Asked = tuple[Direction, str, str, str]


def _asked(document: Document) -> Iterator[_Asked]:
    subject = document.title
    lines = [line.strip() for line in document.text.split("\n")]
    pairs = [match for line in lines if line if (match := _PAIR.fullmatch(line))]
    if len(pairs) > 1 and len(pairs) == sum(bool(line) for line in lines):
        yield from _of_row([(match["name"], match["value"]) for match in pairs])
        return
    fenced = False
    header: list[str] = []
    for line in lines:
        fenced ^= line.startswith(("```", "~~~"))
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not header:
                header = cells
            elif len(cells) == len(header) and not all(re.fullmatch(r":?-*:?", cell) for cell in cells):
                yield from _of_row([(name, cell) for name, cell in zip(header, cells, strict=True) if name and cell])
            continue
        header = []
        if fenced or not line or line.startswith(("#", "```", "~~~", ">")):
            continue
        line = re.sub(r"^(?:[-*+]|\d{1,3}[.)])\s+", "", line)
        start = 0
        for end in [*sentence_ends(line), len(line)]:
            sentence, start = line[start:end].strip(), end
            if not 3 < len(sentence.split()) <= 60:
                continue
            spans = entity_positions(sentence)
            if not subject and spans and spans[0][0] == 0:
                subject = sentence[slice(*spans[0])]
            yield from _of_sentence(_with_subject(sentence, subject))


def _with_subject(sentence: str, subject: str) -> str:
    """``sentence`` with its leading pronoun replaced by ``subject``, where it can stand for that."""
    match = _PRONOUN.match(sentence)
    person = match is not None and match[1 if match["whole"] else 2] in ("He", "She", "His", "Her")
    if match is None or not subject or person != (_who(subject) == "Who"):
        return sentence
    return f"{subject}{chr(39) + 's' if match['own'] else ''} {sentence[match.end() :]}"


def _of_row(cells: Sequence[tuple[str, str]]) -> Iterator[_Asked]:
    """Questions from a row of a table: the other cells are about what its first cell names."""
    (first, subject), *others = cells
    for name, value in others:
        yield "forward", "question", f"What is the {_lowered(name)} of {subject}?", value
        which = "Who" if first.lower() in ("name", "person", "who") else f"Which {_lowered(first)}"
        yield "backward", "question", f"{which} has the {_lowered(name)} {value}?", subject


def _of_sentence(sentence: str) -> Iterator[_Asked]:
    if _PRONOUN.match(sentence):
        return  # its subject is not known
    body = sentence.rstrip(" .!;。！")
    spans = [(start, end) for start, end in entity_positions(body) if body[start:end].strip()]
    if not spans or body.endswith("?"):
        return
    yield from _questions(body, spans)
    yield from _beside_the_verb(body, spans)
    first, last = spans[0], spans[-1]
    if len(body[: last[0]].split()) >= 3:
        yield "forward", "gap", f"Fill in the gap: {body[: last[0]]}{_GAP}", body[slice(*last)]
    if not re.search(r"\w+\W+\w+\W+\w", body[: first[0]]) and len(body[first[1] :].split()) >= 3:
        yield "backward", "gap", f"Fill in the gap: {body[: first[0]]}{_GAP}{body[first[1] :]}.", body[slice(*first)]


def _questions(body: str, spans: Sequence[tuple[int, int]]) -> Iterator[_Asked]:
    first, last = spans[0], spans[-1]
    subject, rest = body[: first[1]], body[first[1] :].strip()
    if re.fullmatch(r"(?:The )?", body[: first[0]]) and _VERB.match(rest) and not _DATE.search(subject):
        yield "backward", "question", f"{_who(subject)} {rest}?", subject
        yield from _forward(subject, rest)
    ending = body[slice(*last)]
    described = re.fullmatch(
        r"(?P<what>.+) (?P<be>is|was|are|were)(?: called| named| known as)?", body[: last[0]].strip()
    )
    if last[1] == len(body) and described and len(described["what"].split()) > 1:
        what, be = _lowered(described["what"]), described["be"]
        yield "forward", "question", f"{_who(ending)} {be} {what}?", ending
        yield "backward", "question", f"{_who(ending)} {be} {ending}?", described["what"]


def _beside_the_verb(body: str, spans: Sequence[tuple[int, int]]) -> Iterator[_Asked]:
    """Questions from what stands between commas behind a name that begins the sentence, or in front of one that follows."""
    start, end = spans[0]
    if body[end : end + 2] == ", " and re.fullmatch(r"(?:The )?", body[:start]):
        name, said = body[:end], body[end + 2 :]
        closed = next((match for match in re.finditer(r", (?=(\S+))", said) if _VERB.fullmatch(match[1])), None)
        if closed:
            yield from _questions(f"{name} {said[closed.end() :]}", [(start, end)])
            said = said[: closed.start()]
        if clause := re.match(r"(?:who|which) (?=\S+ \S)", said):
            yield from _questions(f"{name} {said[clause.end() :]}", [(start, end)])
        else:
            yield from _of_said(name, said, name_first=True)
    elif _FRONTED.match(body):
        for start, end in spans:
            follows = re.match(r" (?:[a-z]+ )?(?=[a-z])", body[end:])
            if body[:start].endswith(", ") and follows and not _DATE.search(body[start:end]):
                yield from _questions(body[start:], [(0, end - start)])
                yield from _of_said(body[start:end], _uncapitalized(body[: start - 2]), name_first=False)
                return


def _of_said(name: str, said: str, *, name_first: bool) -> Iterator[_Asked]:
    """Questions that ask for ``said`` by ``name`` and the other way around; which is which follows from their order."""
    by_name: Direction = "forward" if name_first else "backward"
    by_said: Direction = "backward" if name_first else "forward"
    if known := _KNOWN.match(said):
        asks = f"{known['known']}{known['how'] or ''} {known['prep']}"
        if known["prep"] in ("as", "for being") and _NOUNS.match(known["what"]):
            yield by_name, "question", f"{_who(name)} is {name}?", known["what"]
        yield by_name, "question", f"What is {name} {asks}?", known["what"]
        yield by_said, "question", f"{_who(name)} is {asks} {known['what']}?", name
    elif _NOUNS.match(said):
        yield by_name, "question", f"{_who(name)} is {name}?", said
        yield by_said, "question", f"{_who(name)} is {said}?", name
    elif _PASSIVE.match(f"was {said}"):
        yield by_said, "question", f"{_who(name)} was {said}?", name
        yield from ((by_name, *asked) for _, *asked in _forward(name, f"was {said}"))  # type: ignore[misc]


def _forward(subject: str, rest: str) -> Iterator[_Asked]:
    """Questions that name the subject of a sentence and ask for what it says of it."""
    passive = _PASSIVE.match(rest)
    present = _PRESENT.match(rest)
    be = re.match(rf"(?P<be>{_BE}) (?P<what>(?:the|a|an|one) .+|[A-Z0-9].+)", rest)
    if passive:
        said = f"{passive['prep']} {_to_clause(passive['what'])}"
        for preposition, what in re.findall(r"\b(in|at|on|by) (.+?)(?= (?:in|at|on|by) |$)", said):
            ask = {"by": "By whom", "on": "When"}.get(preposition, "Where")
            ask = "When" if preposition != "by" and _DATE.search(what) else ask
            yield "forward", "question", f"{ask} {passive['be']} {subject} {passive['verb']}?", what
    elif be:
        yield "forward", "question", f"{_who(subject)} {be['be']} {subject}?", be["what"]
    elif present and not re.match(_BE, rest) and present["verb"] not in ("has", "does"):
        verb, what = _infinitive(present["verb"]), present["rest"]
        preposition = re.match(r"(as|in|at|for|on|with|from) ", what)
        if preposition and preposition[1] in ("in", "at"):
            yield "forward", "question", f"Where does {subject} {verb}?", _to_clause(what[preposition.end() :])
        elif preposition:
            yield (
                "forward",
                "question",
                f"What does {subject} {verb} {preposition[1]}?",
                _to_clause(what[preposition.end() :]),
            )
        elif _OBJECT.match(what):
            yield "forward", "question", f"What does {subject} {verb}?", _to_clause(what)


def _who(name: str) -> str:
    """Who or What, as a question asks for ``name``: two to four plain capitalized words are mostly a person."""
    parts = name.split()
    person = 1 < len(parts) <= 4 and all(
        re.fullmatch(r"[^\W\d_][\w.'’-]*", part) and part[0].isupper() for part in parts
    )
    return "Who" if person and not _PLACE_OR_TITLE.search(name) else "What"


def _to_clause(text: str) -> str:
    """``text`` up to the comma or conjunction that begins something else."""
    return re.split(
        r",| and (?=(?:is|was|has|had)\b)| (?:which|who|that|where|when|while|because|but) ", text, maxsplit=1
    )[0].strip()


def _infinitive(verb: str) -> str:
    if verb.endswith("ies"):
        return verb[:-3] + "y"
    return verb[:-2] if re.search(r"(?:ch|sh|ss|x|zz|o)es$", verb) else verb[:-1]


def _uncapitalized(text: str) -> str:
    return text[:1].lower() + text[1:]


def _lowered(text: str) -> str:
    """``text`` inside a sentence: an article or a common word begins it with a small letter."""
    first = text.split(" ", 1)[0]
    small = first in ("The", "A", "An", "His", "Her", "Its", "One") or (first == text and text.istitle())
    return _uncapitalized(text) if small else text


def made_by(questions: Iterable[Question]) -> dict[str, int]:
    """How many of ``questions`` were made by ``rule`` and by a ``model``; empty where people wrote them all."""
    counts: dict[str, int] = {}
    for question in questions:
        if question.group in (MADE_BY_RULE, MADE_BY_MODEL):
            maker = question.group.removeprefix("made by ")
            counts[maker] = counts.get(maker, 0) + 1
    return counts


def question_row(question: Question) -> dict[str, str]:
    """A question as a row of a file, which `load_knowledge` reads back."""
    return {
        "question": question.question,
        "answer": question.answer,
        "direction": question.direction,
        "group": question.group,
        "task": question.task,
    }


# Questions that a language model writes.

Answering = Callable[[Sequence[str]], list[str]]
"""An answer to each of several prompts."""
_PROMPT = (
    "{text}\n\nWrite {count} questions about the text above, each with an answer of a few words that stands in it word "
    "for word. In every other one name somebody or something and ask what the text says of it; in the others describe it and "
    "ask who or what it is. Write nothing else, and each on one line:\nQ: the question | A: the answer"
)
_OPEN_BOOK = "{document}\n\n{question} Answer briefly."
_WRITTEN = re.compile(
    r"Q(?:uestion)?\s*\d*\s*[:.)]\s*(?P<question>[^\n|]+?)\s*[|\n]\s*A(?:nswer)?\s*\d*\s*[:.)]\s*(?P<answer>[^\n]+)"
)
_PASSAGE = 400  # words that the writer is shown at once
_EACH = 4  # questions of a passage


@dataclass(frozen=True)
class Written:
    """The questions of a writer, checked.

    Attributes:
        questions: Those that are kept, in the group `MADE_BY_MODEL`.
        counts: How many were `written`, and under each reason how many of them were left out.
    """

    questions: tuple[Question, ...]
    counts: dict[str, int]

    def summary(self) -> str:
        """In a line, how many were kept of how many, and why the others were not."""
        left = "; ".join(f"{count} {why}" for why, count in self.counts.items() if count and why != "written")
        return f"kept {len(self.questions)} of {self.counts['written']} questions" + (f" ({left})" if left else "")


def checked_questions(
    documents: Sequence[Document], writer: Answering, reader: Answering, count: int | None = None
) -> Written:
    """Questions about ``documents`` that ``writer`` writes and ``reader`` can answer with the document in view.

    Args:
        documents: What is asked about; of several wordings of a fact the first counts.
        writer: Writes them.
        reader: The base model, which has to read the answer out of the document.
        count: How many at most, spread evenly over documents and directions. Default: all.
    """
    first: dict[int, Document] = {}
    for document in documents:
        if not document.messages:
            first.setdefault(document.fact, document)
    shown = [(document, text) for document in first.values() for text in _passages(document.titled_text)]
    replies = writer([_PROMPT.format(text=text, count=_EACH) for _, text in shown])
    found = [
        (document, text, question, answer)
        for (document, text), reply in zip(shown, replies, strict=True)
        for question, answer in parse(reply)
    ]
    counts = {"written": len(found)}
    index = FactIndex(((each.fact, each.titled_text) for each in first.values()), (each[2] for each in found))
    kept: dict[str, tuple[Question, str]] = {}
    answers: dict[str, set[str]] = {}
    for document, text, question, answer in found:
        why = _fault(text, question, answer)
        direction = text_direction(document.titled_text, question, answer, index.weight)
        if why is None and direction not in DIRECTIONS:
            why = "of unknown direction"
        if why is not None:
            counts[why] = counts.get(why, 0) + 1
            continue
        key = " ".join(words_of(question))
        answers.setdefault(key, set()).add(" ".join(words_of(answer)))
        made = Question(question, answer, direction, MADE_BY_MODEL, "question", document.fact, document.source)
        kept.setdefault(key, (made, text))
    single = [each for key, each in kept.items() if len(answers[key]) == 1]
    counts["asked twice, or with two answers"] = len(found) - sum(counts.values()) + counts["written"] - len(single)
    read = reader([_OPEN_BOOK.format(document=text, question=each.question) for each, text in single])
    right = [each for (each, _), said in zip(single, read, strict=True) if _stands(each.answer, said)]
    counts["not answered by the base model with the document in view"] = len(single) - len(right)
    return Written(tuple(right if count is None else spread(right, count)), counts)


def parse(reply: str) -> Iterator[tuple[str, str]]:
    """Questions with their answers in what a writer replied, one a line or one behind the other on two."""
    for match in _WRITTEN.finditer(reply):
        question, answer = (" ".join(match[name].split()).strip(' "“”*') for name in ("question", "answer"))
        if question and answer:
            yield question, answer.rstrip(" .;,")


def _fault(text: str, question: str, answer: str) -> str | None:
    """Why a question cannot be used, if it cannot."""
    if not _stands(answer, text):
        return "whose answer does not stand in the document"
    if len(words_of(answer)) > _LONGEST_ANSWER:
        return "whose answer is long"
    return "that tell their answer" if _stands(answer, question) else None


def _stands(answer: str, text: str) -> bool:
    """Whether ``answer`` stands in ``text``, word for word."""
    words = words_of(answer)
    return bool(words) and f" {' '.join(words)} " in f" {' '.join(words_of(text))} "


def _passages(text: str) -> Iterator[str]:
    """``text`` in parts of some hundred words, cut between lines where there are any."""
    part: list[str] = []
    for line in text.split("\n"):
        words = line.split(" ")
        for start in range(0, len(words), _PASSAGE):
            piece = " ".join(words[start : start + _PASSAGE])
            if part and len(" ".join(part).split()) + len(piece.split()) > _PASSAGE:
                yield "\n".join(part)
                part = []
            part.append(piece)
    if any(each.strip() for each in part):
        yield "\n".join(part)


# A writer on a server.

KEY = "KINJECT_WRITER_KEY"
"""Environment variable with the key for the writer's address; no other secret is sent there."""
LONGEST_REPLY = 320
"""The most tokens of a writer's reply."""
_PATIENCE = 600  # seconds for one reply


def by_address(model: str, address: str, kept: Path | None = None) -> Answering:
    """A model on an OpenAI-compatible server as a writer; it is sent the key in `KEY`, and no token of the Hub.

    Args:
        model: Its name there.
        address: Of the server, as `http://localhost:8000/v1`.
        kept: A file that takes every reply as it comes. Those that it holds already are not asked for again.

    Raises:
        ConfigurationError: ``address`` is not an address.
    """
    import httpx

    if not re.match(r"https?://[^/\s]+", address):
        raise ConfigurationError(f"--writer_url {address}: expected an address such as http://localhost:8000/v1")
    shown = re.sub(r"//[^/@]*@", "//", address.partition("?")[0]).rstrip("/")  # without a password or a key
    place = f"{address.rstrip('/')}/chat/completions"
    # Not huggingface_hub's client, which sends nothing in its offline mode, while a server of one's own may be running.
    key = os.environ.get(KEY)
    client = httpx.Client(timeout=_PATIENCE, headers={"Authorization": f"Bearer {key}"} if key else {})

    def ask(prompt: str) -> str:
        message = [{"role": "user", "content": prompt}]
        asked = {"model": model, "messages": message, "max_tokens": LONGEST_REPLY, "temperature": 0}
        try:
            found = client.post(place, json=asked)
        except httpx.TimeoutException:
            raise _Silence(
                f"nothing came within {_PATIENCE} seconds", "Look whether the server is busy or stuck."
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _Silence(f"not reached: {error}", "Start the server, or check host and port.") from error
        said = " ".join(found.text.split())[:200].replace(key or "\0", f"<{KEY}>")
        if found.status_code in (401, 403):
            raise _Silence(
                f"{found.status_code}: {said}", f"Set the environment variable {KEY} to a key that it accepts."
            )
        if found.is_error or found.is_redirect:
            advice = {404: _api(shown, "check the name of the model"), 429: "Try again a little later."}
            raise _Silence(f"{found.status_code}: {said}", advice.get(found.status_code, "Look into the server's log."))
        try:
            content = found.json()
        except ValueError:
            kind = found.headers.get("content-type", "without a type")
            raise _Silence(f"no JSON came, but {kind}: {said}", _api(shown, "name that of the API")) from None
        try:
            return str(content["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError):
            raise _Silence(
                f"no choices[0].message.content came, but {said}", _api(shown, "name that of an OpenAI-compatible API")
            ) from None

    def answer(prompts: Sequence[str]) -> list[str]:
        replies = _kept_replies(kept)
        tags = [hashlib.sha256(f"{model}\0{prompt}".encode()).hexdigest() for prompt in prompts]
        for tag, prompt in zip(tags, prompts, strict=True):
            if tag in replies:
                continue
            try:
                replies[tag] = ask(prompt)
            except _Silence as silence:
                reason, advice = silence.args
                done = f" {len(replies)} of {len(prompts)} replies are kept in {kept}: the same command goes on from there."
                raise DataError(
                    f"--writer_url {shown}: {model} did not answer ({reason}). {advice}{done if kept and replies else ''}"
                ) from silence
            if kept is not None:
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"prompt": tag, "reply": replies[tag]}, ensure_ascii=False) + "\n")
        told = [replies[tag] for tag in tags]
        if told and not any(reply.strip() for reply in told):
            raise DataError(
                f"--writer_url {shown}: all {len(told)} replies of {model} are empty. A model that thinks first may have spent "
                f"its {LONGEST_REPLY} tokens so: let the server switch thinking off, or name another model."
            )
        return told

    return answer


class _Silence(Exception):
    """Why a server did not answer, and what helps."""


def _api(shown: str, otherwise: str) -> str:
    """What to do about an address that is perhaps not that of the API."""
    return f"Check the address, or {otherwise}." if "/v1" in shown else f"Did you mean {shown}/v1? Else {otherwise}."


def _kept_replies(file: Path | None) -> dict[str, str]:
    """The replies in ``file`` by the hash of their prompts; a last line that was not written to its end does not count."""
    replies: dict[str, str] = {}
    if file is not None and file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                replies[row["prompt"]] = row["reply"]
            except (ValueError, KeyError, TypeError):
                continue
    return replies
