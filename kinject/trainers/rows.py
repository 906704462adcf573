"""Reads rows of questions with their answers, in the forms that data sets have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kinject.errors import DataError


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
