"""Frames around documents and questions, and the mask token. Knows no weights, and no file but that of a user's wordings.

A frame is made once for a wording; documents and their masked copies are put into it as token ids, so that no text can break
it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kinject.errors import ConfigurationError, DataError
from kinject.prompts.encoding import (
    ChatEncoder,
    EncodedDocument,
    Message,
    PlainEncoder,
    TextEncoder,
    added_special_ids,
    begin_of_text_ids,
    end_of_text_id,
    read_conversation,
    template_source,
    tokenizer_name,
    unused_characters,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# The mask token: a token of the vocabulary, which is never resized, that stands for a hidden one.

_MASK_NAME = re.compile(r"mask", re.IGNORECASE)
# Such as <|reserved_special_token_0|>, <unused0>, <extra_id_0>, [control_8], <SPECIAL_20>, <|placeholder1|>.
_RESERVED_NAME = re.compile(
    r"reserved|unused|extra_id|placeholder|(?:^|\W)(?:dummy|control|special)_\d+(?:\W|$)", re.IGNORECASE
)
_BRACKETED = re.compile(r"^[<\[].*[>\]]$")
# Marks of code corpora, which chats and documents never show. <reponame> first: it is an older spelling of <repo_name>.
_CORPUS_NAMES = ("reponame", "repo_name", "file", "gh_stars", "issue", "jupyter", "empty_output", "commit", "fim_pad")
_IN_USE_NAME = re.compile(
    r"bos|eos|pad|unk|cls|sep(?!_)|begin|start|end|stop|eot|eom|turn|header|system|user|assistant|instruct|inst\b|"
    r"tool|function|call|response|python|think|thought|reason|channel|vision|image|img|video|audio|speech|box|quad|"
    r"object_ref|point|lang|translate|transcribe|prefix|suffix|middle|fim",
    re.IGNORECASE,
)


def resolve_mask_token(
    tokenizer: PreTrainedTokenizerBase, name: str | None = None, vocab_size: int | None = None
) -> int:
    """The id that stands for a hidden token.

    Without a name, the first of: the tokenizer's own mask token; an added token named after a mask; a reserved or
    unused token; a marker of code corpora or another added special token that the chat template does not use.

    Args:
        tokenizer: any tokenizer; it is not changed.
        name: an existing token, or a text that encodes to a single one (such as "[]" for Qwen).
        vocab_size: rows of the model's embedding; ids beyond them are not used.

    Raises:
        ConfigurationError: ``name`` is no single usable token, or no token can be found without one.
    """
    if name is not None:
        return _named(tokenizer, name, vocab_size)
    for index in _candidates(tokenizer):
        if vocab_size is None or index < vocab_size:
            return index
    raise ConfigurationError(
        f"the tokenizer {tokenizer_name(tokenizer)} has no mask token and no reserved or unused token within the "
        "model's vocabulary; name an existing token that documents do not contain, for example --mask_token '[]'"
    )


def _named(tokenizer: PreTrainedTokenizerBase, name: str, vocab_size: int | None) -> int:
    index = tokenizer.get_vocab().get(name)
    if index is None:
        ids = tokenizer(name, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            raise ConfigurationError(
                f"mask_token {name!r} is not one token of {tokenizer_name(tokenizer)} (it encodes to {len(ids)}); name "
                "a single token of the vocabulary, or leave mask_token out to have one found"
            )
        index = ids[0]
    control = index in added_special_ids(tokenizer) and str(tokenizer.convert_ids_to_tokens(index)) in template_source(
        tokenizer
    )
    if control or index in {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id}:
        raise ConfigurationError(
            f"mask_token {name!r} already has a use: it begins or ends a text or a turn, or stands for unknown text; "
            "name a token without one"
        )
    if vocab_size is not None and index >= vocab_size:
        raise ConfigurationError(
            f"mask_token {name!r} has id {index}, but the model's vocabulary ends at {vocab_size - 1}; name a token "
            "with a smaller id (the vocabulary is never resized)"
        )
    return int(index)


def _candidates(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Usable ids, best first."""
    template = template_source(tokenizer)
    added = {index: token.content for index, token in sorted(tokenizer.added_tokens_decoder.items())}
    special = added_special_ids(tokenizer)
    in_use = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    free = {i: name for i, name in added.items() if i not in in_use and name.strip() and name not in template}
    vocabulary = {index: name for name, index in tokenizer.get_vocab().items() if index not in added}

    own = [] if tokenizer.mask_token_id is None else [int(tokenizer.mask_token_id)]
    masks = [i for i, name in free.items() if _MASK_NAME.search(name) and not _IN_USE_NAME.search(name)]
    reserved = [i for i, name in free.items() if _RESERVED_NAME.search(name)]
    reserved += sorted(i for i, name in vocabulary.items() if _BRACKETED.match(name) and _RESERVED_NAME.search(name))
    corpus = [i for part in _CORPUS_NAMES for i, name in free.items() if part in name.lower()]
    others = [i for i, name in free.items() if i in special and not _IN_USE_NAME.search(name)]
    return own + masks + reserved + corpus + others


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
# Most have no lead-in before the document, since an answer to a question has none: a model that has only seen the document
# behind a lead-in is slow to give it without one.
DEMASKING_WORDINGS = (
    DEMASKING,
    Wording("{masked}\nReturn the recovered masked passage."),
    Wording("Fill in what is missing: {masked}"),
    Wording("What is the full text?\n{masked}"),
)
INFILLING = Wording("What is missing? {masked}")  # the target is what is hidden, not the whole document
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
        noised_ids: (copy,) the copy the prompt shows, no longer than the document; None exactly where the frame has no copy.
        loss_mask: (document,) the document tokens that carry loss (masked answers: those hidden in the copy); None
            means all of them and the end of the turn.

    Raises:
        ValueError: lengths that do not fit, or a copy given to a frame without one (or the reverse).
    """
    length = len(document_ids)
    if (noised_ids is not None) != frame.has_copy:
        raise ValueError(
            f"frame.has_copy is {frame.has_copy}, but noised_ids {'is' if frame.has_copy else 'is not'} None"
        )
    if loss_mask is not None and len(loss_mask) != length:
        raise ValueError(f"loss_mask has {len(loss_mask)} entries, expected one per document token: {length}")
    if noised_ids is not None and len(noised_ids) > length:
        raise ValueError(f"noised_ids has {len(noised_ids)} entries, expected at most the document's: {length}")
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
        """Refuse an answer that spells out this model's reasoning tokens, such as <think>: they would be learned as words.

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
