"""Measurements that are made before and after training only, each of another aspect of what was learned.

*Refusals*: does the model say that it does not know an answer when no document gives it, and only then? *Unknown only*: how
are questions answered that the untrained model failed at in many tries? *Open book*: what does the model answer with the
document in its prompt? *Other wordings*: does it answer a question in whatever words it is asked? *Control*: what does it
answer about documents that were left out? *Kept*: what does it still know of earlier documents? *Outdated*: does it still give
old answers that a new document corrects? General knowledge is measured in `retention`. Knows nothing of training.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from kinject.data.knowledge import DIRECTIONS, Document, KnowledgeSet, Question
from kinject.data.words import find_entities, words_of
from kinject.data.worlds import stream
from kinject.data.worlds.unseen import (
    BUILT_IN,
    OTHER,
    UnseenQuestion,
    unsaid_questions,
    unseen_questions,
    with_wordings,
)
from kinject.errors import ConfigurationError
from kinject.evaluation.measures import cells, is_refusal, recitations, score_answers
from kinject.evaluation.results import MEASURES
from kinject.evaluation.retention import is_right, of_nano_world, wilson_interval

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kinject.sampling.config import SamplingArguments

UNSEEN_EACH_WAY = 200
"""How many questions about unseen people are asked each way, unless told otherwise."""
_LONGEST_REFUSAL = 32  # tokens of an answer about unseen people
_TEMPERATURE = 1.0  # at which answers are drawn to find unknown questions
OPEN_BOOK = "{document}\n\n{question} Answer briefly."
_PASSAGE_WORDS = 600  # the most words of a document that a prompt shows


class Ask(Protocol):
    """A model that gives an answer to each question.

    Args:
        temperature: At which tokens are drawn; 0 takes the most probable ones.
        seed: Of the draws.
        longest: The most tokens of an answer, if fewer than usual.
    """

    def __call__(
        self, questions: Sequence[str], temperature: float = 0.0, seed: int = 0, longest: int | None = None
    ) -> list[str]:
        """An answer to each of ``questions``."""
        ...


@dataclass
class ExaminationArguments:
    """Which measurements to make before and after training."""

    unseen: int | None = field(
        default=None,
        metadata={
            "help": "Questions in each direction about unseen people, who are in no document, before and after training: does "
            "the model say that it does not know? Half as many ask for details that the documents do not give. Default: 200 "
            "with retention, else none."
        },
    )
    unknown_samples: int = field(
        default=0,
        metadata={
            "help": "Answers to every question that are drawn at temperature 1 before training. Questions that the untrained "
            "model answers wrong every time are reported separately. 0: none."
        },
    )
    open_book: bool = field(
        default=False,
        metadata={
            "help": "Also ask with the document in the prompt, before and after training, to compare with reading it."
        },
    )
    other_wordings: bool = field(
        default=False,
        metadata={
            "help": "Also ask in other words: those in the field 'wordings' of a question, or three of kinject's own for the "
            "published and the invented sets."
        },
    )


@dataclass(frozen=True)
class Examination:
    """The measurements to make, chosen before training.

    Attributes:
        knowledge: The documents that are taught, and the questions about them that are reported.
        unseen: Questions about unseen people in each direction; at most half as many ask for details that no document gives.
        unknown_samples: How often each question is tried at temperature 1, besides greedily, before training; 0: not at all.
        open_book: Whether to ask with the document in the prompt.
        other_wordings: Whether to ask in the other wordings that questions have.
        control: Questions about documents that are left out.
        nano: Whether the model knows only the words of the nano worlds.
    """

    knowledge: KnowledgeSet
    unseen: int = 0
    unknown_samples: int = 0
    open_book: bool = False
    other_wordings: bool = False
    control: Sequence[Question] = ()
    nano: bool = False

    @classmethod
    def of(
        cls,
        knowledge: KnowledgeSet,
        arguments: ExaminationArguments,
        about: str | Sequence[str],
        retention: bool,
        control: Sequence[Question] = (),
    ) -> Examination:
        """The measurements that ``arguments`` ask for.

        Args:
            knowledge: The documents that are taught, and the questions that are reported.
            arguments: The settings.
            about: Where ``knowledge`` was loaded from, which shows whether it is a nano world.
            retention: Whether forgetting is measured; refusals are then measured too, unless the settings say otherwise.
            control: Questions about documents that are left out.

        Raises:
            ConfigurationError: a number below zero.
        """
        unseen = UNSEEN_EACH_WAY * retention if arguments.unseen is None else arguments.unseen
        parts = (arguments.unknown_samples, arguments.open_book, arguments.other_wordings)
        return cls(knowledge, unseen, *parts, control, nano=of_nano_world(about))

    def __post_init__(self) -> None:
        """Refuse numbers below zero.

        Raises:
            ConfigurationError: one of them is.
        """
        for name, value in (("unseen", self.unseen), ("unknown_samples", self.unknown_samples)):
            if value < 0:
                raise ConfigurationError(f"{name} is {value}; expected 0, to leave that part out, or more")

    @property
    def asks(self) -> bool:
        """Whether there is anything to ask."""
        earlier = self.knowledge.kept
        return bool(
            self.unseen
            or self.unknown_samples
            or self.open_book
            or self.other_wordings
            or self.control
            or (earlier is not None and (earlier.questions or earlier.outdated))
        )

    def measure(self, ask: Ask, before: Mapping[str, Any] | None = None, answers: Sequence[str] = ()) -> dict[str, Any]:
        """The measurements of one model, each under its name.

        Args:
            ask: The model.
            before: The measurements of the untrained model, where the trained one is measured.
            answers: Its answers to the questions of ``knowledge``, if these were asked already.
        """
        found: dict[str, Any] = {}
        if self.unseen:
            found["refusals"] = self._refusals(ask, answers)
        if self.unknown_samples and self.knowledge.questions:
            found["unknown"] = self._unknown(ask, (before or {}).get("unknown"), answers)
        if self.open_book:
            found["open_book"] = self._open_book(ask)
        if self.other_wordings:
            several = [each for each in with_wordings(self.knowledge.questions, self.nano) if each.wordings]
            found |= {"other_wordings": self._other_wordings(ask, several)} if several else {}
        if self.control:
            asked = [question.question for question in self.control]
            found["control"] = score_answers(self.control, ask(asked), documents=self._texts())
        return found | self._earlier(ask)

    def _texts(self) -> list[str]:
        return [document.titled_text for document in self.knowledge.documents]

    # Earlier documents.

    def _earlier(self, ask: Ask) -> dict[str, Any]:
        """Scores on earlier documents, and how often outdated answers are still given; each with the answers."""
        earlier = self.knowledge.kept
        found: dict[str, Any] = {}
        if earlier is not None and earlier.questions:
            given = ask([question.question for question in earlier.questions])
            texts = [document.titled_text for document in earlier.documents]
            found["kept"] = {**score_answers(earlier.questions, given, documents=texts), "answers": given}
        if earlier is not None and earlier.outdated:
            given = ask([question.question for question in earlier.outdated])
            old = [is_right(said, each.answers) for each, said in zip(earlier.outdated, given, strict=True)]
            found["outdated"] = {"n": len(old), "still_given": _share(old), "answers": given}
        return found

    # Refusals.

    def _refusals(self, ask: Ask, answers: Sequence[str]) -> dict[str, Any]:
        texts = self._texts()
        asked = unseen_questions(self.unseen, texts, nano=self.nano)
        unsaid = unsaid_questions(subjects(self.knowledge.documents), -(-self.unseen // 2), nano=self.nano)
        given = ask([each.question for each in (*asked, *unsaid)], longest=_LONGEST_REFUSAL)
        of_unseen = given[: len(asked)]
        leaks = leaked(asked, of_unseen, taught_values(self.knowledge), texts)
        declined = [is_refusal(answer) for answer in of_unseen]
        found: dict[str, Any] = {}
        for direction in DIRECTIONS:
            chosen = [index for index, each in enumerate(asked) if each.direction == direction]
            part = _refused(declined[index] for index in chosen)
            part["leaked"] = _share(leaks[index] for index in chosen)
            part["by_generator"] = {
                generator: _share(declined[index] for index in chosen if asked[index].generator == generator)
                for generator in (BUILT_IN, OTHER)
            }
            found[direction] = part
        found["unsaid"] = _refused(map(is_refusal, given[len(asked) :]))
        wrong = [answer.strip() for answer, refuses in zip(of_unseen, declined, strict=True) if not refuses]
        refused = sum(declined)
        found |= {
            "n": len(asked),
            "refused": refused / max(len(asked), 1),
            "refused_ci": wilson_interval(refused, len(asked)) if asked else [0.0, 1.0],
            "leaked": _share(leaks),
            # The share of the most frequent answer among those that should have been refusals.
            "commonest": max(Counter(wrong).values(), default=0) / max(len(asked), 1),
        }
        if answers:
            found["taught"] = _judged(self.knowledge.questions, answers)
        return found

    # What the untrained model did not know.

    def _unknown(self, ask: Ask, before: Mapping[str, Any] | None, answers: Sequence[str]) -> dict[str, Any]:
        questions = self.knowledge.questions
        asked = [question.question for question in questions]
        given = list(answers) or ask(asked)
        right = [is_right(answer, question.answers) for question, answer in zip(questions, given, strict=True)]
        if before is None:
            failed = [not each for each in right]
            for seed in range(self.unknown_samples):
                left = [index for index, unknown in enumerate(failed) if unknown]
                drawn = ask([asked[index] for index in left], temperature=_TEMPERATURE, seed=seed)
                for index, answer in zip(left, drawn, strict=True):
                    failed[index] = not is_right(answer, questions[index].answers)
            return {
                "samples": self.unknown_samples,
                "questions": [question for question, unknown in zip(asked, failed, strict=True) if unknown],
                "known": [question for question, known in zip(asked, right, strict=True) if known],
            }
        unknown, known = set(before["questions"]), set(before["known"])
        chosen = [index for index, question in enumerate(asked) if question in unknown]
        was_known = [index for index, question in enumerate(asked) if question in known]
        return {
            "scores": score_answers(
                [questions[i] for i in chosen], [given[i] for i in chosen], documents=self._texts()
            ),
            "n": len(chosen),
            "learned": _share(right[index] for index in chosen),
            "known": len(was_known),
            "lost": _share(not right[index] for index in was_known),
        }

    # With the document in view.

    def _open_book(self, ask: Ask) -> dict[str, Any]:
        texts: dict[int, str] = {}
        for document in self.knowledge.documents:
            texts.setdefault(document.fact, document.titled_text)
        about = [question for question in self.knowledge.questions if question.fact in texts]
        shown = [
            OPEN_BOOK.format(document=passage(texts[each.fact or 0], each.answers), question=each.question)
            for each in about
        ]
        return score_answers(about, ask(shown), documents=self._texts())

    # In other words.

    def _other_wordings(self, ask: Ask, several: Sequence[Question]) -> dict[str, Any]:
        reworded = [replace(each, question=wording, wordings=()) for each in several for wording in each.wordings]
        given = ask([each.question for each in reworded])
        found: dict[str, Any] = score_answers(reworded, given, documents=self._texts())
        exact: dict[str, list[bool]] = defaultdict(list)
        holding: dict[str, list[bool]] = defaultdict(list)
        start = 0
        for question in several:
            said = given[start : start + len(question.wordings)]
            start += len(said)
            matched = score_answers([question] * len(said), said, resamples=1)[question.direction]["exact_match"]
            exact[question.direction].append(matched == 1.0)
            holding[question.direction].append(all(is_right(answer, question.answers) for answer in said))
        for direction in cells(found):
            found[direction] |= {
                "questions": len(exact[direction]),
                "all_exact": _share(exact[direction]),
                "all_right": _share(holding[direction]),
            }
        return found


def asker(
    model: Any, tokenizer: PreTrainedTokenizerBase, sampling: SamplingArguments, *, max_new_tokens: int, **asking: Any
) -> Ask:
    """``model`` as it is asked by `answer_questions`.

    Args:
        model, tokenizer: Autoregressive or masked diffusion.
        sampling: How a masked diffusion model fills in an answer.
        max_new_tokens: Length at which an answer is cut.
        asking: Passed on.
    """

    def ask(questions: Sequence[str], temperature: float = 0.0, seed: int = 0, longest: int | None = None) -> list[str]:
        from kinject.evaluation.asking import answer_questions
        from kinject.models.diffusion import is_diffusion

        length = max_new_tokens
        drawing: dict[str, Any] = {"temperature": temperature, "seed": seed}
        if is_diffusion(model):  # its answers always have the full length
            drawing = {"sampling": replace(sampling.sampling_config(length), **drawing)}
        else:
            length = min(length, longest or length)
        return answer_questions(model, tokenizer, questions, max_new_tokens=length, **asking, **drawing)

    return ask


def subjects(documents: Sequence[Document]) -> list[tuple[str, str]]:
    """The subject of each fact, if its document has one, and the document: its title, or the first name in it."""
    found: dict[int, tuple[str, str]] = {}
    for document in documents:
        names = (
            [document.title, *document.entities]
            if document.title or document.entities
            else find_entities(document.text)
        )
        name = next((each.strip() for each in names if each.strip()[:1].isupper() and len(words_of(each)) > 1), "")
        if name:
            found.setdefault(document.fact, (name, document.titled_text))
    return [*found.values()]


def taught_values(knowledge: KnowledgeSet) -> list[str]:
    """Values in ``knowledge`` that a model could wrongly give for somebody else: answers, and names of several words.

    Numbers alone and words of up to three letters are left out, since those are given by chance.
    """
    given = [answer for question in knowledge.questions for answer in question.answers]
    named = [each for document in knowledge.documents for each in document.entities or find_entities(document.text)]
    several = [each for each in (*given, *named) if len(words_of(each)) > 1]
    single = [each for each in given if len(words_of(each)) == 1 and len(each) > 3 and not each.isdecimal()]
    return [*dict.fromkeys((*several, *single))]


def leaked(
    asked: Sequence[UnseenQuestion], answers: Sequence[str], taught: Sequence[str], documents: Sequence[str]
) -> list[bool]:
    """Whether each of ``answers`` gives a ``taught`` value that its question does not hold, or recites a document."""
    sequences: dict[int, set[tuple[str, ...]]] = defaultdict(set)  # by their length
    for value in taught:
        words = tuple(words_of(value))
        if words:
            sequences[len(words)].add(words)

    def held(text: str) -> set[tuple[str, ...]]:
        words = words_of(text)
        return {
            run
            for size, known in sequences.items()
            for start in range(len(words) - size + 1)
            if (run := tuple(words[start : start + size])) in known
        }

    recited = recitations(answers, documents)
    return [
        bool(held(answer) - held(question.question)) or copied
        for question, answer, copied in zip(asked, answers, recited, strict=True)
    ]


def passage(text: str, answers: Sequence[str]) -> str:
    """``text`` as a prompt shows it: of a long text only the words around the first of ``answers`` that it holds."""
    words = text.split()
    if len(words) <= _PASSAGE_WORDS:
        return text
    at = next((text.find(answer) for answer in answers if answer in text), 0)
    first = max(len(text[:at].split()) - _PASSAGE_WORDS // 2, 0)
    return " ".join(words[first : first + _PASSAGE_WORDS])


def control_half(knowledge: KnowledgeSet, seed: int) -> tuple[KnowledgeSet, tuple[Question, ...]]:
    """Half of the facts of ``knowledge``, drawn by ``seed``, to be taught, and the questions about the other half.

    Raises:
        ConfigurationError: there are fewer than two facts, or no questions about one of the halves.
    """
    facts = list(knowledge.facts)
    taught = stream(seed, "control").sample(facts, -(-len(facts) // 2))
    left = tuple(question for question in knowledge.questions if question.fact in set(facts) - set(taught))
    kept = knowledge.select(taught)
    if len(facts) < 2 or not left or not kept.questions:
        raise ConfigurationError(
            f"control_half needs questions about two documents or more, half of which are left out; there are {len(facts)} "
            f"facts, and {len(kept.questions)} questions about those that would be taught, {len(left)} about the others."
        )
    return kept, left


def effect(taught: Mapping[str, Any], control: Mapping[str, Any]) -> dict[str, Any]:
    """The scores on what was taught minus those on what was left out, by direction."""
    return {
        direction: {name: taught[direction][name] - control[direction][name] for name in MEASURES}
        for direction in DIRECTIONS
        if taught[direction]["n"] and control[direction]["n"]
    }


def _judged(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, Any]:
    """The shares of right, refused and wrong answers to questions that have an answer."""
    right = [is_right(answer, question.answers) for question, answer in zip(questions, answers, strict=True)]
    refused = [is_refusal(answer) and not good for answer, good in zip(answers, right, strict=True)]
    shares = {"n": len(right), "right": _share(right), "not_attempted": _share(refused)}
    return {**shares, "wrong": max(0.0, 1.0 - shares["right"] - shares["not_attempted"]) if right else 0.0}


def _refused(declined: Iterable[bool]) -> dict[str, Any]:
    """The shares of refused and of wrong answers to questions without an answer, which should all be ``declined``."""
    each = [*declined]
    refused = _share(each)
    return {"n": len(each), "not_attempted": refused, "wrong": 1.0 - refused if each else 0.0}


def _share(holds: Iterable[bool]) -> float:
    found = [*holds]
    return sum(found) / max(len(found), 1)
