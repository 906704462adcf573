"""What stands in documents before anything is trained: `kinject preview` shows it, `kinject questions` makes questions of it.

Without a model nothing heavy is imported, and tokens are estimated from words.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.data.entities import find_entities
from kinject.data.made_questions import make_questions, question_row
from kinject.data.words import word_spans
from kinject.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kinject.data.knowledge import Document, KnowledgeSet, Question

TOKENS_A_WORD = (
    1.4  # of English in the vocabularies of SmolLM2, Llama and Qwen, punctuation included; other scripts take more
)
_SHOWN = 8  # documents
_HIDDEN = "▒"


def preview(knowledge: KnowledgeSet, model: str | None = None, max_length: int = 1024) -> dict[str, Any]:
    """What would be learned of ``knowledge``, as JSON's types.

    Args:
        knowledge: the documents, with the questions that come with them.
        model: whose tokens are counted; of a Hub id only the local cache is read. Default: an estimate from words.
        max_length: of a sample in tokens, prompt and target together, as in training.

    Raises:
        ConfigurationError: the model's tokenizer is not here.
    """
    count = _counter(model)
    documents = []
    for document in knowledge.documents:
        tokens = count(document.titled_text)
        entities = list(dict.fromkeys(document.entities or find_entities(document.titled_text)))
        documents.append(
            {
                "source": document.source,
                "title": document.title,
                "begins": " ".join(document.titled_text.split())[:100],
                "tokens": tokens,
                "pieces": max(1, -(-2 * tokens // max_length)),  # the document stands in prompt and target
                "entities": entities,
            }
        )
    first = knowledge.documents[0]
    made = make_questions(knowledge.documents)
    return {
        "name": knowledge.name,
        "documents": documents,
        "tokens": sum(each["tokens"] for each in documents),
        "tokens_are_estimated": model is None,
        "pieces": sum(each["pieces"] for each in documents),
        "questions": len(knowledge.questions),
        "questions_by_rule": {name: sum(each.direction == name for each in made) for name in ("forward", "backward")},
        "without_questions": len({each.fact for each in knowledge.documents} - {each.fact for each in made}),
        "masked_sample": masked_sample(first),
    }


def masked_sample(document: Document, ratio: float = 0.5, longest: int = 300) -> str:
    """The beginning of ``document`` as masked training shows it at ``ratio``, whole words hidden; the same each time."""
    text = document.titled_text[:longest]
    draws = random.Random(f"preview/{text}")
    shown, end = "", 0
    for start, stop in word_spans(text):
        hidden = draws.random() < ratio
        shown += text[end:start] + (_HIDDEN * (stop - start) if hidden else text[start:stop])
        end = stop
    return shown + text[end:] + ("…" if len(document.titled_text) > longest else "")


def _counter(model: str | None) -> Callable[[str], int]:
    """What counts the tokens of a text."""
    if model is None:
        return lambda text: round(TOKENS_A_WORD * len(word_spans(text))) or 1
    from kinject.models.loading import tokenizer_and_vocabulary

    found = tokenizer_and_vocabulary(model)
    if found is None:
        raise ConfigurationError(
            f"model '{model}': its tokenizer is not on this machine; leave --model out to estimate, or download it first."
        )
    tokenizer = found[0]
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def print_preview(shown: dict[str, Any], max_length: int) -> None:
    """Show what `preview` found."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    about = "about " if shown["tokens_are_estimated"] else ""
    documents = shown["documents"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("document", "tokens", "pieces", "entities", "begins"):
        table.add_column(
            name, justify="right" if name in ("tokens", "pieces", "entities") else "left", overflow="ellipsis"
        )
    table.columns[0].no_wrap = table.columns[-1].no_wrap = True
    for each in documents[:_SHOWN]:
        named = each["title"] or Path(str(each["source"])).name or "-"
        table.add_row(
            escape(named), str(each["tokens"]), str(each["pieces"]), str(len(each["entities"])), escape(each["begins"])
        )
    console.print(table)
    if len(documents) > _SHOWN:
        console.print(f"... and {len(documents) - _SHOWN} more documents")
    console.print(
        f"{len(documents)} documents, {about}{shown['tokens']:,} tokens, in {about}{shown['pieces']} pieces "
        f"of up to {max_length} tokens (prompt and target together)"
    )
    bare = sum(not each["entities"] for each in documents)
    named = [entity for each in documents for entity in each["entities"]][:6]
    if named:
        console.print(
            f"entities such as {escape(', '.join(named))}" + (f"; {bare} documents have none" if bare else "")
        )
    both = shown["questions_by_rule"]
    if shown["questions"]:
        console.print(f"{shown['questions']} questions come with the documents")
    else:
        console.print(
            f"no questions come with the documents; {both['forward']} forward and {both['backward']} backward ones can be made "
            "by rule" + (f", none about {shown['without_questions']} documents" if shown["without_questions"] else "")
        )
    console.print("\nmasked, as it is learned (other gaps in every epoch):\n" + escape(shown["masked_sample"]))


def write_questions(questions: Sequence[Question], output_file: str | None, *, overwrite: bool = False) -> str:
    """Questions as JSON lines, written to ``output_file`` or returned.

    Raises:
        ConfigurationError: the file is there already, or cannot be written.
        DataError: there is no question.
    """
    from kinject.evaluation.results import write_text

    if not questions:
        raise DataError(
            "no question could be made by rule: no sentence says something of a name, a date or an amount; write some by hand"
        )
    text = "".join(json.dumps(question_row(each), ensure_ascii=False) + "\n" for each in questions)
    if output_file is not None:
        if Path(output_file).exists() and not overwrite:
            raise ConfigurationError(f"{output_file}: the file is there already; name another, or pass --overwrite.")
        write_text(output_file, text)
    return text
