"""Rows: questions with their answers in the forms that data sets have, and what the trainers make of all rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Dataset, Features, IterableDataset, Value

from kinject.data.rows import conversation_of
from kinject.errors import ConfigurationError, DataError

_INTEGER, _INTEGERS = Value("int64"), [Value("int64")]
PREPARED = Features(
    {
        "document_ids": _INTEGERS,
        "word_ids": _INTEGERS,
        "gaps": [_INTEGERS],
        "frames": [{"before": _INTEGERS, "between": _INTEGERS, "after": _INTEGERS, "has_copy": Value("bool")}],
        "length": _INTEGER,
        "sample": _INTEGER,
        "fixed_masks": Value("bool"),
        "turn": _INTEGER,
        "predictions": {"ids": [_INTEGERS], "log_probs": [[Value("float32")]]},
    }
)
"""The columns of a prepared data set. Their types are said: those of a thousand rows may leave some of them open."""


def question_and_answer(
    row: Mapping[str, Any], where: str, text_field: str = "text"
) -> tuple[str | list[dict[str, str]], str] | None:
    """Prompt (messages up to the last answer) and answer of a row that is a conversation; None for a document.

    Args:
        row: A document, or a conversation in one of the forms that `kinject.data.rows.conversation_of` reads.
        where: What an error calls the row.
        text_field: The field of a document. Beside it `messages` and `prompt` make a row a conversation, and the names
            that are less telling do not.

    Raises:
        DataError: a conversation without an answer, or with what cannot be learned.
    """
    if row.get("rehearsal"):  # what the model said is learned as it was said
        return row["prompt"], row["completion"]
    if row.get(text_field) is not None and not row.get("messages") and not row.get("prompt"):
        return None
    messages = conversation_of(row, where)
    return None if messages is None else (messages[:-1], messages[-1]["content"])


def check_dataset(dataset: Any, name: str) -> None:
    """Refuse what is no data set, and one without rows.

    Raises:
        ConfigurationError: it is a list, a dictionary of splits, or nothing at all.
        DataError: it holds no row.
    """
    if isinstance(dataset, Mapping):
        raise ConfigurationError(
            f"{name}_dataset is a {type(dataset).__name__} of {', '.join(map(str, dataset))}; pass one of them, such as "
            f"dataset['{next(iter(dataset), 'train')}']."
        )
    if not isinstance(dataset, (Dataset, IterableDataset)):
        raise ConfigurationError(
            f"{name}_dataset is {'missing' if dataset is None else f'a {type(dataset).__name__}'}; pass a data set of the "
            "library datasets, such as datasets.Dataset.from_list(rows)."
        )
    if next(iter(dataset), None) is None:
        raise DataError(f"the {name} data set holds no row; give it at least one document or conversation.")
