"""Rows: questions with their answers in the forms that data sets have, and what the trainers make of all rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Features, Value

from kinject.errors import DataError

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


def question_and_answer(row: Mapping[str, Any], where: str) -> tuple[str | list[dict[str, str]], str]:
    """Prompt (text, or messages up to the last answer) and answer of a prompt/completion or chat row.

    Args:
        row: With `messages`, or `prompt` and `completion`.
        where: What an error calls the row.

    Raises:
        DataError: there is no answer.
    """
    if row.get("messages"):
        messages = list(row["messages"])
        if messages[-1]["role"] != "assistant":
            raise DataError(f"{where}: the last of 'messages' must be the assistant's, the answer to learn.")
        prompt, answer = messages[:-1], messages[-1]["content"]
    else:
        prompt, completion = row["prompt"], row.get("completion")
        answer = completion[-1]["content"] if isinstance(completion, list) and completion else completion
    if not isinstance(answer, str) or not answer.strip():
        raise DataError(f"{where}: the answer ('completion', or the last message) is missing or empty.")
    return prompt, answer
