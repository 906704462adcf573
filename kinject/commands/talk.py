"""Asks a trained model what someone types: a list of questions, or a conversation in the terminal. Scores nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kinject.errors import ConfigurationError, DataError, KinjectError

if TYPE_CHECKING:
    from kinject.models import LoadedModel

HELP = """\
/base   show the answers of the model it came from beside its own, or stop that
/new    begin a new conversation; nothing that was said is known any more
/help   this list
/quit   end (as does the end of input)"""


def typed_questions(questions: Sequence[str], file: str | None) -> list[str]:
    """The ``questions`` of a command line, and those of ``file``, one a line; `-` is standard input if it is piped.

    Raises:
        ConfigurationError: there are none.
        DataError: the file cannot be read.
    """
    asked = [question for question in questions if question != "-"]
    if file is not None and file != "-":
        try:
            asked += Path(file).read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise DataError(
                f"{file}: cannot be read ({error.strerror}); name a file with one question a line."
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8 ({error.reason}); save it as UTF-8, one question a line.") from error
    elif "-" in (file, *questions) and not sys.stdin.isatty():
        asked += sys.stdin.read().splitlines()
    asked = [question.strip() for question in asked if question.strip()]
    if not asked:
        raise ConfigurationError("no questions; give some, name a file with --file, or pipe them in, one a line.")
    return asked


@dataclass
class Conversation:
    """Several turns with a model, and beside it with the model it came from once that is asked for.

    Args:
        loaded: The trained model.
        load_base: Loads the one it came from.
        max_new_tokens: Longest answer, in tokens.
        system_prompt: System message; None leaves it to the chat template.
    """

    loaded: LoadedModel
    load_base: Callable[[], LoadedModel]
    max_new_tokens: int = 128
    system_prompt: str | None = None
    beside: bool = False
    _base: LoadedModel | None = None
    _turns: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: {"after": [], "before": []})

    def say(self, text: str) -> list[tuple[str, str]]:
        """What each model answers to ``text`` after what was said before: (label, answer).

        Each knows its own answers; what it said while it was not shown it does not know.

        Raises:
            KinjectError: the conversation is too long for the model, or the base cannot be loaded.
        """
        from kinject.evaluation.asking import answer_questions

        models = {"after": self.loaded}
        if self.beside:
            self._base = self._base or self.load_base()
            models = {"before": self._base, "after": self.loaded}
        answers = []
        for label, model in models.items():
            (answer,) = answer_questions(
                model.model,
                model.tokenizer,
                [text],
                max_new_tokens=self.max_new_tokens,
                examples=self._turns[label],
                system_prompt=self.system_prompt,
            )
            answers.append((label, answer))
        for label, answer in answers:
            self._turns[label].append((text, answer))
        return answers if self.beside else [("", answers[0][1])]

    def forget(self) -> None:
        """Begin anew."""
        for turns in self._turns.values():
            turns.clear()


def converse(conversation: Conversation, lines: Iterable[str], show: Callable[[str], None]) -> None:
    """Answer ``lines`` until they end or say /quit; what cannot be answered is explained, and the conversation goes on."""
    for line in lines:
        text = line.strip()
        if text in ("/quit", "/exit"):
            return
        if text == "/base":
            conversation.beside = not conversation.beside
            show(
                "both models answer from now on"
                if conversation.beside
                else "only the trained model answers from now on"
            )
        elif text == "/new":
            conversation.forget()
            show("a new conversation")
        elif text.startswith("/"):
            show(HELP if text == "/help" else f"{text.split()[0]} is no command\n{HELP}")
        elif text:
            try:
                for label, answer in conversation.say(text):
                    show(f"{label + ': ' if label else ''}{answer}")
            except KinjectError as error:
                show(f"error: {error} /new begins a new conversation, /base stops asking the base model.")


def terminal_lines() -> Iterable[str]:
    """What is typed, line by line, until the end of input."""
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return
