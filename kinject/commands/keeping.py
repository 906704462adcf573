"""Teaching a model more documents later: which earlier ones are kept, which are corrected, and what is asked about both.

The earlier documents come from where they lie, or from the `results.json` of the run that is gone on from. One that a new
document corrects is not rehearsed; questions whose answer it changes are asked, to see that the old answer is gone. Imports
nothing heavy, and knows nothing of how rehearsal is trained.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kinject.data.knowledge import Document, Kept, KnowledgeSet, Question
from kinject.data.made_questions import make_questions
from kinject.data.records import ROW_KINDS, file_kind
from kinject.data.words import find_entities, words_of
from kinject.errors import ConfigurationError, DataError
from kinject.evaluation.results import read_results, recorded_answers

KNOWN = "known"
"""What `--keep` alone stands for: the documents that `results.json` of the model knows."""
NONE = "none"
KEPT_QUESTIONS = 32  # made by rule where no questions about the earlier documents were recorded


@dataclass
class KeepingArguments:
    """What the model was taught earlier, and has to keep."""

    keep: str | list[str] | None = field(
        default=None,
        metadata={
            "help": "Documents that --model was taught earlier, rehearsed while it learns the new ones and asked about, too: "
            "files or folders; without a value those that the results.json of --model knows."
        },
    )
    keep_questions: str | None = field(
        default=None,
        metadata={
            "help": "File of questions about the documents of --keep. Default: those that come with them, else those that the "
            "results.json of --model records, else up to 32 that are made by rule."
        },
    )
    keep_share: float = field(
        default=0.5,
        metadata={
            "help": "With --keep: share of the documents' samples in an epoch that are earlier documents, each at most once; "
            "they also fill up the last batch."
        },
    )
    corrects: list[str] | None = field(
        default=None,
        metadata={
            "help": "With --keep: earlier documents that new ones correct, by file, title or id; they are not rehearsed, and "
            "it is asked whether their old answers are gone. Default: those of the same file, title or id; 'none': none."
        },
    )

    def load_kept(
        self,
        knowledge: KnowledgeSet,
        model: str | None,
        load: Callable[[str | list[str], str | None], KnowledgeSet],
        sources: str | list[str],
    ) -> KnowledgeSet:
        """``knowledge`` with what `keep` names, if anything.

        Args:
            knowledge: The new documents.
            model: The model that is trained on, which may be the directory of an earlier run.
            load: Loads documents and, where they are named, the questions about them.
            sources: Where the new documents came from.

        Raises:
            ConfigurationError: a setting without effect, or a model whose results hold no documents.
            DataError: documents or questions that cannot be read, or a correction of a document that is not there.
        """
        if self.keep is None:
            for name in ("keep_questions", "corrects"):
                if getattr(self, name) is not None:
                    raise ConfigurationError(
                        f"--{name} is about earlier documents, and none are kept: add --keep, or leave it out."
                    )
            return knowledge
        names = [self.keep] if isinstance(self.keep, str) else list(self.keep)
        run = next((name for name in names if holds_model(name)), None)
        if run is not None:
            raise ConfigurationError(
                f"--keep {run} is the directory of a run or a model, not of documents. To keep what a run has learned, go on "
                "from it: --model RUN --keep. Else name the documents: --keep FOLDER."
            )
        recorded = recorded_knowledge(model)
        if names == [KNOWN]:
            earlier = require_texts(recorded, model)
            if self.keep_questions is not None:
                asked = load_about(self.keep_questions, earlier)
                earlier = replace(earlier, questions=asked)
        else:
            earlier = named_files(load(names[0] if len(names) == 1 else names, self.keep_questions), names)
            if not earlier.questions and recorded is not None:
                earlier = replace(earlier, questions=_questions_about(recorded.knowledge, earlier.documents))
        if not earlier.questions:
            earlier = replace(earlier, questions=make_questions(earlier.documents, KEPT_QUESTIONS))
        new = named_files(knowledge, sources)
        return replace(knowledge, kept=kept(new.documents, earlier, self.corrects))


@dataclass(frozen=True)
class Recorded:
    """What the `results.json` of a run records of its documents: texts and questions, and how many documents there were."""

    knowledge: KnowledgeSet | None
    count: int
    source: Path
    results: Mapping[str, Any]


def holds_model(name: str) -> bool:
    """Whether ``name`` is a directory that a run or a model lies in."""
    directory = Path(name).expanduser()
    return any((directory / file).is_file() for file in ("results.json", "config.json", "adapter_config.json"))


def recorded_knowledge(model: str | None) -> Recorded | None:
    """What the run in directory ``model`` recorded; None where it is no run.

    Raises:
        DataError: its `results.json` cannot be read.
    """
    folder = Path(str(model)).expanduser()
    if model is None or not (folder / "results.json").is_file():
        return None
    results = read_results(folder)
    learned = [
        Document(
            entry["text"],
            position,
            tuple(entry.get("entities") or ()),
            str(entry.get("file", "")),
            messages=tuple((str(role), str(content)) for role, content in entry.get("messages") or ()),
            title=str(entry.get("title", "")),
            id=str(entry.get("id", "")),
        )
        for position, entry in enumerate(results.get("learned") or ())
    ]
    positions: dict[Any, int] = {}
    for position, entry in enumerate(results.get("learned") or ()):
        positions.setdefault(entry.get("document"), position)
    asked = [entry for name in ("answers", "answers_kept") for entry in results.get(name) or ()]
    questions = {
        entry["question"]: Question(
            entry["question"],
            entry["expected"],
            entry["direction"],
            fact=positions[entry["document"]],
            other_answers=tuple(each for each in entry.get("accepted") or () if each != entry["expected"]),
        )
        for entry in asked
        if entry.get("document") in positions and not entry.get("outdated")
    }
    count = int(results.get("documents") or 0) + int((results.get("kept") or {}).get("documents") or 0)
    known = KnowledgeSet(results["dataset"], tuple(learned), tuple(questions.values())) if learned else None
    return Recorded(known, count, folder / "results.json", results)


def require_texts(recorded: Recorded | None, model: str | None) -> KnowledgeSet:
    """All that a run recorded of its documents.

    Raises:
        ConfigurationError: there is no run, or it recorded no texts, or not all.
    """
    cure = "Name the documents themselves: --keep FOLDER."
    if recorded is None:
        named = f"{model} holds" if model else "no --model is named that holds"
        raise ConfigurationError(
            f"--keep takes the earlier documents from the results.json of --model, and {named} none. {cure}"
        )
    held = 0 if recorded.knowledge is None else len(recorded.knowledge.documents)
    if recorded.knowledge is None or held < recorded.count:
        raise ConfigurationError(
            f"{recorded.source} holds the texts of {held} of the {recorded.count or 'earlier'} documents, so the others cannot "
            f"be kept from it. {cure}"
        )
    return recorded.knowledge


def load_about(questions: str, about: KnowledgeSet) -> tuple[Question, ...]:
    """The questions in a file, linked to the documents of ``about``.

    Raises:
        DataError: the file cannot be read, or none of its questions is about one of the documents.
    """
    from kinject.data.direction import link_questions
    from kinject.data.readers import question_records
    from kinject.data.rows import question_rows_from

    rows = question_rows_from(question_records(questions))
    return link_questions(rows, about.documents, about.documents)


def _questions_about(recorded: KnowledgeSet | None, documents: Sequence[Document]) -> tuple[Question, ...]:
    """The recorded questions whose document is among ``documents``, by its text."""
    if recorded is None:
        return ()
    facts = {each.titled_text: each.fact for each in reversed(documents)}
    texts = {each.fact: each.titled_text for each in recorded.documents}
    return tuple(
        replace(each, fact=facts[texts[each.fact]])
        for each in recorded.questions
        if each.fact is not None and texts[each.fact] in facts
    )


def named_files(knowledge: KnowledgeSet, sources: str | Sequence[str]) -> KnowledgeSet:
    """``knowledge`` with the file of each document as its source: within the folder that was named, else by its name alone."""
    named = [sources] if isinstance(sources, str) else sources
    folders = [path.resolve() for each in named if (path := Path(each).expanduser()).is_dir()]

    def file_of(source: str) -> str:
        path = Path(re.sub(r':(?:sheet ".*", )?(?:row )?\d+$', "", source))
        if not source or not path.is_file():
            return ""
        inside = next((folder for folder in folders if path.resolve().is_relative_to(folder)), None)
        return path.name if inside is None else path.resolve().relative_to(inside).as_posix()

    documents = (replace(each, source=file_of(each.source)) for each in knowledge.documents)
    return replace(knowledge, documents=tuple(documents))


def kept(new: Sequence[Document], earlier: KnowledgeSet, corrects: Sequence[str] | None = None) -> Kept:
    """Which of the ``earlier`` documents and questions are kept beside ``new`` documents.

    Args:
        new: Documents, each with its file as its source.
        earlier: What was taught, likewise.
        corrects: Earlier documents that are corrected, by file, title or id. Default: as `corrections` finds them.

    Raises:
        DataError: ``corrects`` names a document that is not there.
    """
    again = {each.titled_text: each.fact for each in reversed(new)}
    by: dict[int, list[Document]] = {}  # by the position of an earlier document, the new ones that correct it
    if corrects is None:
        by = corrections(new, earlier.documents)
    elif [*corrects] != [NONE]:
        for name in corrects:
            meant = [place for place, each in enumerate(earlier.documents) if _is_called(each, name)]
            if not meant:
                known = {each.source or each.title or each.id for each in earlier.documents} - {""}
                raise DataError(
                    f"--corrects {name}: no earlier document has this file, title or id; there are "
                    f"{', '.join(sorted(known)[:10]) or 'none with a name'}."
                )
            by |= dict.fromkeys(meant, [*new])
    instead: dict[int, list[Document]] = {}  # by the fact that is corrected
    for place, documents in by.items():
        if earlier.documents[place].titled_text not in again:
            instead.setdefault(earlier.documents[place].fact, []).extend(documents)
    after = max((each.fact for each in new), default=-1) + 1
    facts = {each.fact: again.get(each.titled_text, each.fact + after) for each in earlier.documents}
    facts |= {fact: documents[0].fact for fact, documents in instead.items()}
    true, outdated = [], []
    for question in earlier.questions:
        moved = replace(question, fact=None if question.fact is None else facts.get(question.fact))
        if question.fact not in instead:
            true.append(moved)
            continue
        old = [words_of(each.titled_text) for each in earlier.documents if each.fact == question.fact]
        now = [words_of(each.titled_text) for each in instead[question.fact]]
        if not any(_stands(answer, text) for answer in question.answers for text in now):
            outdated.append(moved)
        elif any(_cues(question, old) <= {*text} for text in now):
            true.append(moved)
    return Kept(
        tuple(
            replace(each, fact=facts[each.fact])
            for each in earlier.documents
            if each.fact not in instead and each.titled_text not in again
        ),
        tuple(true),
        tuple(each for each in earlier.documents if each.fact in instead),
        tuple(outdated),
    )


def corrections(new: Sequence[Document], earlier: Sequence[Document]) -> dict[int, list[Document]]:
    """Which earlier documents, by position, ``new`` ones correct.

    One does if it is of the same file, a file of one document; has the same title, which no other has; has the same id, and
    shares a name; or is a row of the same file with the same first of several lines, such as the first cell of a table.
    """
    found: dict[int, list[Document]] = {}
    forms: tuple[Callable[[Document], str], ...] = (
        lambda each: "" if not each.source or file_kind(Path(each.source)) in ROW_KINDS else each.source,
        lambda each: " ".join(words_of(each.title)),
        _row_head,
    )
    for form in forms:
        for place, document in _alone(form, new, earlier):
            found.setdefault(place, []).append(document)
    for place, old in enumerate(earlier):
        named = {*find_entities(old.titled_text)}
        for document in new:
            same = bool(old.id) and document.id == old.id and named & {*find_entities(document.titled_text)}
            if same and document not in found.get(place, ()):
                found.setdefault(place, []).append(document)
    return {
        place: each for place, each in found.items() if earlier[place].titled_text not in {d.titled_text for d in each}
    }


def _alone(
    form: Callable[[Document], str], new: Sequence[Document], earlier: Sequence[Document]
) -> Iterable[tuple[int, Document]]:
    """Pairs of an earlier document, by position, and a new one of equal ``form``, where no other document has that form."""
    counts = Counter(map(form, new)), Counter(map(form, earlier))
    mine = {form(each): each for each in new}
    for place, old in enumerate(earlier):
        key = form(old)
        if key and key in mine and all(count[key] == 1 for count in counts):
            yield place, mine[key]


def _row_head(document: Document) -> str:
    first, *others = document.text.strip().split("\n")
    of_rows = document.source and file_kind(Path(document.source)) in ROW_KINDS
    return f"{document.source}\n{first}" if of_rows and others else ""


def _is_called(document: Document, name: str) -> bool:
    names = (document.source, Path(document.source).name, document.id, document.title)
    return bool(name) and (name in names or words_of(name) == words_of(document.title) != [])


def _stands(answer: str, words: Sequence[str]) -> bool:
    return f" {' '.join(words_of(answer))} " in f" {' '.join(words)} "


def _cues(question: Question, texts: Sequence[Sequence[str]]) -> set[str]:
    """The words of a question that stand in the texts that it was asked about."""
    return {word for word in words_of(question.question) if any(word in text for text in texts)}


def describe(found: Kept) -> str:
    """In one line, how much is kept and what is corrected."""
    said = f"{len(found.documents)} earlier documents rehearsed, {len(found.questions)} questions about them"
    if not found.corrected:
        return said
    names = [each.source or each.title or each.id or each.text[:40] for each in found.corrected]
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (
        f"{said}; corrected, so not rehearsed: {shown} (--corrects none, if the new ones are no corrections), "
        f"{len(found.outdated)} questions whose answer changed"
    )


def kept_epochs(documents: int, share: float, kept_count: int, batch: int, epochs: int) -> list[list[int]]:
    """The epochs that show each earlier document, as evenly as their number allows.

    An epoch holds as many of them as make up ``share`` beside the new ``documents``, and as many more as fill its last batch,
    which costs no step.

    Args:
        documents: New ones, each shown in every epoch.
        share: Of the samples of an epoch, from 0 to below 1.
        kept_count: Earlier documents.
        batch: Samples of a step.
        epochs: Of the run.

    Raises:
        ConfigurationError: ``share`` is out of range.
    """
    if not 0.0 < share < 1.0:
        raise ConfigurationError(
            f"keep_share is {share}; expected a share of the samples above 0 and below 1, such as 0.5."
        )
    wanted = max(1, round(documents * share / (1.0 - share)))
    together = batch * math.ceil((documents + wanted) / batch)
    turns = math.ceil(kept_count / max(1, min(kept_count, together - documents)))
    return [list(range(place % turns, max(epochs, turns), turns)) for place in range(kept_count)]


def recorded_kept(found: Kept, answers: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """The questions about earlier documents with their answers after training, as `results.json` records them."""
    still = recorded_answers(found.questions, answers["kept"]) if "kept" in answers else []
    gone = recorded_answers(found.outdated, answers["outdated"]) if "outdated" in answers else []
    return [*still, *({**each, "outdated": True} for each in gone)]
