"""Questions that a language model writes about documents, each kept only where it can be trusted: marked as made by machine.

A question is kept if its answer is short and stands in the document, if the order of cue and answer tells its direction, and if
the base model answers it rightly with the document in view. The writer is any model that `load` takes, or one behind an
OpenAI-compatible address. Nothing is trained on what it writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kinject.data.direction import FactIndex, text_direction
from kinject.data.knowledge import DIRECTIONS, Document, Question
from kinject.data.made_questions import MADE_BY_MODEL, spread
from kinject.data.words import words_of
from kinject.errors import ConfigurationError, DataError
from kinject.evaluation.examination import passage
from kinject.evaluation.retention import is_right

if TYPE_CHECKING:
    from kinject.models import LoadedModel

KEY = "KINJECT_WRITER_KEY"
"""Environment variable with the key for the writer's address; no other secret is ever sent there."""
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
_LONGEST_ANSWER = 14  # words
_LONGEST_REPLY = 320  # tokens


@dataclass(frozen=True)
class Written:
    """What a writer wrote.

    Attributes:
        questions: Those that are kept, in the group `MADE_BY_MODEL`.
        counts: How many were written, and how many of these were left out, by why.
    """

    questions: tuple[Question, ...]
    counts: dict[str, int]

    def summary(self) -> str:
        """In a line, how many were kept of how many, and why the others were not."""
        left = "; ".join(f"{count} {why}" for why, count in self.counts.items() if count and why != "written")
        return f"kept {len(self.questions)} of {self.counts['written']} questions" + (f" ({left})" if left else "")


def write_by_model(
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
    read = reader(
        [_OPEN_BOOK.format(document=passage(text, each.answers), question=each.question) for each, text in single]
    )
    right = [each for (each, _), said in zip(single, read, strict=True) if is_right(said, each.answers)]
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
    words = words_of(answer)
    if not words or f" {' '.join(words)} " not in f" {' '.join(words_of(text))} ":
        return "whose answer does not stand in the document"
    if len(words) > _LONGEST_ANSWER:
        return "whose answer is long"
    if f" {' '.join(words)} " in f" {' '.join(words_of(question))} ":
        return "that tell their answer"
    return None


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


def by_model(loaded: LoadedModel, longest: int = _LONGEST_REPLY) -> Answering:
    """A loaded model as a writer or reader."""
    from kinject.evaluation.asking import answer_questions

    def answer(prompts: Sequence[str]) -> list[str]:
        if not prompts:
            return []
        return answer_questions(loaded.model, loaded.tokenizer, prompts, max_new_tokens=longest, batch_size=8)

    return answer


def by_address(model: str, address: str) -> Answering:
    """A model behind an OpenAI-compatible ``address`` as a writer; the key in `KEY` is sent there, and no token of the Hub's.

    Raises:
        ConfigurationError: the address is none.
    """
    import httpx

    if not re.match(r"https?://[^/\s]+", address):
        raise ConfigurationError(f"--writer_url {address}: expected an address such as http://localhost:8000/v1")
    place = f"{address.rstrip('/')}/chat/completions"
    # Not by huggingface_hub's client: that one is silent in its offline mode, in which a server of one's own may well run.
    key = os.environ.get(KEY)
    client = httpx.Client(timeout=600, headers={"Authorization": f"Bearer {key}"} if key else {})

    def answer(prompts: Sequence[str]) -> list[str]:
        replies = []
        for prompt in prompts:
            message = [{"role": "user", "content": prompt}]
            asked = {"model": model, "messages": message, "max_tokens": _LONGEST_REPLY, "temperature": 0}
            try:
                found = client.post(place, json=asked)
                found.raise_for_status()
                replies.append(str(found.json()["choices"][0]["message"]["content"] or ""))
            except (httpx.HTTPError, httpx.InvalidURL, KeyError, IndexError, TypeError, ValueError) as error:
                said = " ".join(str(error).split())
                raise DataError(
                    f"--writer_url {address}: {model} did not answer ({said[:300]}); check address, name and {KEY}"
                ) from error
        return replies

    return answer
