"""The prompts around a document: text in, token ids out, and which of them are copy, document and loss.

A training sample is ``before + noised copy + between + document + after``. The frame (before, between, after) and the
document are encoded separately, so which tokens are document is known by construction. Default is the demasking prompt
of masked fine-tuning (arXiv 2510.09885, section 3); `QuestionTemplate` asks questions in the same chat frame.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kinject.chat import ChatEncoder, Message, PlainEncoder, read_conversation, unused_characters
from kinject.encoding import EncodedDocument, TextEncoder, begin_of_text_ids, end_of_text_id
from kinject.errors import ConfigurationError, DataError
from kinject.mask_token import resolve_mask_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "ANSWER",
    "DEMASKING",
    "DEMASKING_WORDINGS",
    "FACT",
    "INFILLING",
    "MASKED_ANSWER",
    "RAW",
    "RAW_FROM_BEGIN",
    "Assembled",
    "DocumentTemplate",
    "EncodedDocument",
    "Frame",
    "QuestionTemplate",
    "Wording",
    "assemble",
    "resolve_mask_token",
]

IGNORED = -100  # a label that carries no loss


@dataclass(frozen=True)
class Wording:
    """What the user and the assistant say around a document.

    Attributes:
        user: the user's words; may hold ``{masked}`` (the noised copy) and ``{question}``, each once. None means no
            conversation at all: BOS + document + EOS.
        assistant: the assistant's words; ends with ``{document}``.
        begin: without a conversation, put BOS first even where the tokenizer does not by itself.

    Raises:
        ConfigurationError: a placeholder that is unknown to its side, missing or repeated.
    """

    user: str | None
    assistant: str = "{document}"
    begin: bool = False

    def __post_init__(self) -> None:
        """Check the placeholders."""
        if not self.assistant.endswith("{document}") or len(_placeholders(self.assistant)) != 1:
            raise ConfigurationError(
                f"wording: assistant is {self.assistant!r}, expected text that ends with {{document}} and has no other "
                "placeholder; text after the document would stand between it and the end of the turn"
            )
        found = _placeholders(self.user or "")
        if "{document}" in found or len(found) != len(set(found)):
            raise ConfigurationError(
                f"wording: user is {self.user!r}, expected {{masked}} and {{question}} at most once each and no "
                "{document}"
            )

    @property
    def has_copy(self) -> bool:
        """Whether the user shows a noised copy of the document."""
        return "{masked}" in (self.user or "")

    @property
    def lead(self) -> str:
        """What the assistant says before the document."""
        return self.assistant.removesuffix("{document}")


def _placeholders(text: str) -> list[str]:
    return re.findall(r"\{(?:masked|question|document)\}", text)


DEMASKING = Wording("{masked}\nReturn the recovered masked passage.", "Here is the recovered text:\n\n{document}")
# Most say nothing before the document: an answer to a question has no lead-in either, and a model that has only ever met
# the document behind one is slow to give it without.
DEMASKING_WORDINGS = (
    DEMASKING,
    Wording("{masked}\nReturn the recovered masked passage."),
    Wording("Fill in what is missing: {masked}"),
    Wording("What is the full text?\n{masked}"),
)
INFILLING = Wording("What is missing? {masked}")  # the answer is what is hidden, not the whole document
MASKED_ANSWER = Wording("{question}\n{masked}\nReturn the recovered masked answer.")
ANSWER = Wording("{question}")
FACT = Wording("Tell me a fact.")
RAW = Wording(None)
RAW_FROM_BEGIN = Wording(None, begin=True)


@dataclass(frozen=True)
class Frame:
    """Token ids around a document, the same for every document.

    Attributes:
        before: up to the noised copy, or to the document where there is no copy.
        between: from the copy to the document; empty where there is no copy.
        after: the one id that ends the turn. It carries loss.
        has_copy: whether a noised copy of the document stands between ``before`` and ``between``.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    has_copy: bool


@dataclass(frozen=True)
class Assembled:
    """One training sample.

    Attributes:
        input_ids: (length,) token ids.
        labels: (length,) the same ids where they carry loss, else -100; not shifted.
        copy_positions: (start, length) of the noised copy in input_ids; length 0 where there is none.
        document_positions: (start, length) of the document, the target.
    """

    input_ids: list[int]
    labels: list[int]
    copy_positions: tuple[int, int]
    document_positions: tuple[int, int]


def assemble(
    frame: Frame,
    document_ids: Sequence[int],
    noised_ids: Sequence[int] | None,
    loss_mask: Sequence[bool] | None = None,
) -> Assembled:
    """A training sample from a frame, a document and its noised copy.

    Args:
        frame: see `DocumentTemplate`.
        document_ids: (document,) the target.
        noised_ids: (document,) the copy the prompt shows; None exactly where the frame has no copy.
        loss_mask: (document,) the document tokens that carry loss (masked answers: those hidden in the copy); None
            means all of them and the end of the turn.

    Raises:
        ValueError: lengths that differ, or a copy given to a frame without one (or the reverse).
    """
    length = len(document_ids)
    if (noised_ids is not None) != frame.has_copy:
        raise ValueError(
            f"frame.has_copy is {frame.has_copy}, but noised_ids {'is' if frame.has_copy else 'is not'} None"
        )
    for name, values in (("noised_ids", noised_ids), ("loss_mask", loss_mask)):
        if values is not None and len(values) != length:
            raise ValueError(f"{name} has {len(values)} entries, expected one per document token: {length}")
    document = [int(index) for index in document_ids]
    copy = [] if noised_ids is None else [int(index) for index in noised_ids]
    prefix = [*frame.before, *copy, *frame.between]
    if loss_mask is None:
        targets = [*document, *frame.after]
    else:
        scored = [index if scores else IGNORED for index, scores in zip(document, loss_mask, strict=True)]
        targets = scored + [IGNORED] * len(frame.after)
    return Assembled(
        input_ids=[*prefix, *document, *frame.after],
        labels=[IGNORED] * len(prefix) + targets,
        copy_positions=(len(frame.before), len(copy)),
        document_positions=(len(prefix), length),
    )


def _encoder(
    tokenizer: PreTrainedTokenizerBase, system_prompt: str | None, chat: bool = True
) -> ChatEncoder | PlainEncoder:
    encoder = ChatEncoder if tokenizer.chat_template and chat else PlainEncoder
    return encoder(tokenizer, system_prompt)


# Tokens between which models reason before they answer.
_REASONING = ("<think>", "</think>", "[THINK]", "[/THINK]", "<|channel>", "<|channel|>")


class DocumentTemplate:
    """Puts documents into the tokenizer's chat template, or into a plain frame where it has none.

    The assistant's turn opens as it does at question time (``add_generation_prompt=True``), so what is learned is what
    will be asked for. Documents and prompts may hold any text: spelled-out control tokens stay ordinary tokens.

    Args:
        tokenizer: a fast tokenizer.
        wordings: one frame is made of each.
        system_prompt: the system's words; folded into the user's turn where the template knows no system. None leaves
            what the template does by default.

    Raises:
        ConfigurationError: the template fails or does not keep what is put in, or no token ends a text.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        wordings: Sequence[Wording] = (DEMASKING,),
        system_prompt: str | None = None,
    ) -> None:
        """See the class."""
        if not wordings:
            raise ConfigurationError("wordings is empty, expected at least one")
        self.wordings = tuple(wordings)
        self._tokenizer = tokenizer
        # Raw text also works where the chat template is of no use.
        self._encoder = _encoder(tokenizer, system_prompt, any(wording.user is not None for wording in wordings))
        self._text: TextEncoder = self._encoder.text

    @cached_property
    def frames(self) -> tuple[Frame, ...]:
        """One frame per wording, for plain documents."""
        for wording in self.wordings:
            if "{question}" in (wording.user or ""):
                raise ConfigurationError(
                    f"the wording {wording.user!r} asks a {{question}}, but a plain document has none; use rows of "
                    "prompt and completion, or another wording"
                )
        return tuple(self._frame(wording, (), "") for wording in self.wordings)

    def row_frames(self, prompt: str | Sequence[Message]) -> tuple[Frame, ...]:
        """One frame per wording for an answer to ``prompt``, which stays visible.

        Args:
            prompt: a question, or the messages of a conversation that ends with the user's. The last message takes the
                place of ``{question}``; a wording without that placeholder is put after it if it shows a copy, else
                only the prompt is shown.

        Raises:
            DataError: messages without text or not ending with the user's.
            ConfigurationError: the wording `RAW`, which shows no prompt.
        """
        messages: Sequence[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        question = read_conversation(messages, None)[-1][1]
        return tuple(self._frame(_row_wording(wording), messages[:-1], question) for wording in self.wordings)

    def require_spoken(self, answer: str) -> None:
        """Refuse an answer that spells out the tokens between which this model reasons: they would be learned as words.

        Raises:
            DataError: it does.
        """
        marker = next((each for each in _REASONING if each in answer and self._text.forges(each)), None)
        if marker is not None:
            raise DataError(
                f"the answer holds {marker!r}, by which this model marks its reasoning, and kinject learns answers without "
                "any; remove the reasoning from the answer"
            )

    def encode(self, text: str) -> EncodedDocument:
        """Ids, words and offsets of a document. No control token is among the ids, whatever the text says."""
        return self._text.encode(text)

    def overhead(self) -> int:
        """The most tokens that a frame adds to a document (and its copy)."""
        return max(len(frame.before) + len(frame.between) + len(frame.after) for frame in self.frames)

    def _frame(self, wording: Wording, earlier: Sequence[Message], question: str) -> Frame:
        if wording.user is None:
            begin, end = begin_of_text_ids(self._tokenizer), end_of_text_id(self._tokenizer)
            if wording.begin and self._tokenizer.bos_token_id is not None:
                begin = [int(self._tokenizer.bos_token_id)]
            return Frame(before=tuple(begin), between=(), after=(end,), has_copy=False)
        texts = [wording.user, question, *(str(message.get("content")) for message in earlier)]
        slot = next(unused_characters([*texts, self._encoder.frame_text, self._encoder.system_prompt or ""]))
        # All at once: a question may itself hold the text "{masked}".
        filling = {"{masked}": slot, "{question}": question}
        user = re.sub(r"\{(?:masked|question)\}", lambda match: filling[match[0]], wording.user)
        messages = [*earlier, {"role": "user", "content": user}]
        lead = self._encoder.answer_gap + wording.lead
        pieces = self._encoder.prompt(messages, slot if wording.has_copy else "", lead)
        return Frame(
            before=tuple(pieces[0]),
            between=tuple(pieces[1]) if wording.has_copy else (),
            after=(self._encoder.end_of_turn,),
            has_copy=wording.has_copy,
        )


def _row_wording(wording: Wording) -> Wording:
    if wording.user is None:
        raise ConfigurationError("the raw wording shows no prompt; use another one for rows of prompt and completion")
    if "{question}" in wording.user:
        return wording
    return replace(wording, user="{question}\n" + wording.user if wording.has_copy else "{question}")


# Names under which tokenizers keep an end of text beside the end of a turn.
_END_OF_TEXT_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|end▁of▁sentence|>")


class QuestionTemplate:
    """Questions to the model, in the frame it was trained in.

    Args:
        tokenizer: a fast tokenizer; without a chat template questions read "Question: ...\\nAnswer:".
        system_prompt: as for `DocumentTemplate`.

    Attributes:
        end_ids: every id that ends an answer: the end of a turn, and of a text.

    Raises:
        ConfigurationError: as for `DocumentTemplate`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None = None) -> None:
        """See the class."""
        self._encoder = _encoder(tokenizer, system_prompt)
        ends = [self._encoder.end_of_turn, tokenizer.eos_token_id]
        added = tokenizer.get_added_vocab()
        ends += [added.get(name) for name in _END_OF_TEXT_NAMES]
        self.end_ids: tuple[int, ...] = tuple(dict.fromkeys(index for index in ends if index is not None))

    def encode(self, question: str, examples: Sequence[tuple[str, str]] = ()) -> list[int]:
        """Ids of the prompt, (length,), up to where the answer begins.

        Args:
            question: surrounding white space is dropped, as most chat templates do.
            examples: (question, answer) pairs shown as earlier turns.
        """
        question = question.strip()
        if isinstance(self._encoder, PlainEncoder):
            shots = "".join(f"Question: {asked}\nAnswer: {answer}\n\n" for asked, answer in examples)
            user = f"{shots}Question: {question}\nAnswer:"
            return self._encoder.prompt([{"role": "user", "content": user}])[0]
        messages: list[Message] = []
        for asked, answer in examples:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        return self._encoder.prompt([*messages, {"role": "user", "content": question}])[0]


def named_wordings(name: str) -> Sequence[Wording]:
    """The demasking prompts of that name: `paper`, `rotating`, or a YAML file with a list of `{user, assistant}`.

    Raises:
        ConfigurationError: no such name or file, or an entry without `{masked}` in `user` or `{document}` in `assistant`.
    """
    if name == "paper":
        return (DEMASKING,)
    if name == "rotating":
        return DEMASKING_WORDINGS
    import yaml

    path = Path(name)
    if not path.is_file():
        raise ConfigurationError(f"wordings '{name}': expected paper, rotating, or a YAML file; no such file exists.")
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ConfigurationError(f"{path}: expected a list of {{user, assistant}} entries.")
    for number, entry in enumerate(entries, start=1):
        texts = isinstance(entry, dict) and all(isinstance(value, str) for value in entry.values())
        if not texts or set(entry) - {"user", "assistant"} or "user" not in entry:
            raise ConfigurationError(f"{path}, entry {number}: expected the fields user and assistant, each a text.")
        if "{masked}" not in entry["user"] or "{document}" not in entry.get("assistant", "{document}"):
            raise ConfigurationError(f"{path}, entry {number}: user needs {{masked}} and assistant {{document}}.")
    return tuple(Wording(**entry) for entry in entries)
