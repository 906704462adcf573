"""Turns texts and conversations into token ids, so that no text from outside can forge a control token or another turn.

A conversation is rendered by the tokenizer's own chat template, in training as when the model is asked. Knows nothing of
documents or masks.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

import regex
from jinja2 import TemplateError

from kinject.data.words import is_unspaced, normalize
from kinject.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# Texts as token ids.

_CHARACTER = regex.compile(r"\X")


@dataclass(frozen=True)
class EncodedDocument:
    """A text as token ids, with the word and the characters of each token.

    Attributes:
        text: the text.
        ids: (length,) token ids, no control token among them.
        word_ids: (length,) rising from 0; tokens of one word have the same id.
        offsets: (length,) first and last + 1 character of each token in the text.
    """

    text: str
    ids: list[int]
    word_ids: list[int]
    offsets: list[tuple[int, int]]


def tokenizer_name(tokenizer: PreTrainedTokenizerBase) -> str:
    """How error messages name the tokenizer."""
    return getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__


def added_special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the tokens declared special."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))


class TextEncoder:
    """Encodes text from outside without control tokens, and kinject's own text with them.

    Raises:
        ConfigurationError: the tokenizer gives no offsets (it is not a "fast" one).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, frame_text: str = "") -> None:
        """See the class."""
        if not tokenizer.is_fast:
            raise ConfigurationError(
                f"the tokenizer {tokenizer_name(tokenizer)} gives no character offsets; kinject needs a fast "
                "tokenizer, one with a tokenizer.json"
            )
        self.tokenizer = tokenizer
        # Some templates mark turns with added tokens that are not declared special: text may not forge these either.
        markers = {
            index
            for index, token in tokenizer.added_tokens_decoder.items()
            if token.content.strip() and token.content in frame_text
        }
        self.control_ids = added_special_ids(tokenizer) | markers

    def literal(self, text: str) -> list[int]:
        """Ids of kinject's own text, in which control tokens keep their meaning. Adds no BOS or EOS."""
        encoding = self.tokenizer(text, add_special_tokens=False, split_special_tokens=False, verbose=False)
        return list(encoding["input_ids"])

    def forges(self, text: str) -> bool:
        """Whether ``text``, read as literal, would put a control token into the ids."""
        return any(self.is_control(index, text) for index in self.control_ids.intersection(self.literal(text)))

    def is_control(self, index: int, text: str) -> bool:
        """Whether ``index``, a token of ``text``, is a control token. That for unknown text counts only if spelled out."""
        if index == self.tokenizer.unk_token_id and str(self.tokenizer.unk_token) not in text:
            return False
        return index in self.control_ids

    def guarded(self, text: str) -> list[int]:
        """Ids of text that may come from outside: as literal where that is harmless."""
        return self.encode(text).ids if self.forges(text) else self.literal(text)

    def encode(self, text: str) -> EncodedDocument:
        """Ids of text from outside: control tokens in it are spelled out as ordinary tokens."""
        encoding = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        )
        ids, offsets = list(encoding["input_ids"]), [(int(a), int(b)) for a, b in encoding["offset_mapping"]]
        if not self.control_ids.isdisjoint(ids):
            ids, offsets = self._spell_out(text, ids, offsets)
        return EncodedDocument(text, ids, _word_ids(text, offsets), offsets)

    def _spell_out(
        self, text: str, ids: list[int], offsets: list[tuple[int, int]]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        # split_special_tokens does not cover every tokenizer: added tokens that are not special still match whole, and
        # so do control tokens that are also entries of a Unigram or WordLevel vocabulary.
        spelled: list[int] = []
        places: list[tuple[int, int]] = []
        for index, (start, end) in zip(ids, offsets, strict=True):
            if not self.is_control(index, text[start:end]):
                spelled.append(index)
                places.append((start, end))
                continue
            for position in range(start, end):
                pieces = self._character_ids(text[position])
                spelled += pieces
                places += [(position, position + 1)] * len(pieces)
        return spelled, places

    def _character_ids(self, character: str) -> list[int]:
        # Printable ASCII stands for itself in byte-level and SentencePiece vocabularies; encoding it would, in the
        # latter, put a space before it.
        if "!" <= character <= "~":
            index = self.tokenizer.convert_tokens_to_ids(character)
            if isinstance(index, int) and index not in self.control_ids | {self.tokenizer.unk_token_id}:
                return [index]
        ids = self.tokenizer(character, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if not any(self.is_control(index, character) for index in ids):
            return list(ids)
        raise DataError(f"the text holds {character!r}, which is a control token of {tokenizer_name(self.tokenizer)}")


def _words_of_characters(text: str) -> list[int]:
    """The word that each character belongs to: a run of letters, of white space or of symbols, or an unspaced character."""
    word_at: list[int] = []
    word, previous = -1, ""
    # A character is what a reader takes for one: combining marks belong to their letter.
    for match in _CHARACTER.finditer(text):
        first = match[0][0]
        current = _kind(first) or previous
        if current != previous or current == "unspaced" and normalize(first):
            word += 1
        word_at += [max(word, 0)] * len(match[0])
        previous = current
    return word_at


@lru_cache(maxsize=1 << 16)
def _kind(character: str) -> str:
    """What a character makes words of; nothing of a soft hyphen or direction mark, which is part of what it stands in."""
    if character.isspace():
        return "space"
    if is_unspaced(character):
        return "unspaced"
    if unicodedata.category(character)[0] in "LNM" or character == "_":
        return "letter"
    return "symbol" if normalize(character) else ""


def _word_ids(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The word of each token; from the text, as many pre-tokenizers know no words (Gemma, Llama 2)."""
    word_at = _words_of_characters(text)
    word_ids: list[int] = []
    group, last_word = -1, -1
    for start, end in offsets:
        # A leading space belongs to the word after it.
        while start < end - 1 and text[start].isspace():
            start += 1
        if start >= end or word_at[start] != last_word:
            group += 1
        word_ids.append(group)
        last_word = word_at[end - 1] if start < end else -1
    return word_ids


def end_of_text_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The EOS id; raises ConfigurationError where there is none."""
    if tokenizer.eos_token_id is None:
        raise ConfigurationError(
            f"the tokenizer {tokenizer_name(tokenizer)} has no end-of-text token, so a model could never learn to "
            "stop; set tokenizer.eos_token to the token that ends a text"
        )
    return int(tokenizer.eos_token_id)


def begin_of_text_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """[BOS] where the tokenizer puts one before a text, else []."""
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    return [int(ids[0])] if ids and ids[0] == tokenizer.bos_token_id else []


Message = Mapping[str, object]

# A template takes some values from the program that renders it. They are pinned in the template itself, so that everyone asks
# in the frame of training: kinject, the code of a card, lm-eval, a server. Thinking is off, as documents hold none. The date is
# that of the Llama 3 templates, since today's would change the frame at midnight; it is a macro, as a template that is saved
# cannot hold a function.
_PINNED = "{# pinned as in training #}"
_DATE = {"%d": "26", "%-d": "26", "%e": "26", "%a": "Fri", "%A": "Friday", "%b": "Jul", "%B": "July", "%m": "07"}
_DATE |= {"%-m": "7", "%Y": "2024", "%y": "24", "%H": "00", "%I": "12", "%p": "AM", "%M": "00", "%S": "00"}
_FIXED_DATE = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('{directive}', '{value}')" for directive, value in _DATE.items())
    + " }}{% endmacro %}"
)
_NO_THINKING = "{% set enable_thinking = false %}"
# Where a template knows no system message, its text goes before that of the first user.
_FOLDED_SYSTEM = (
    "{% if messages and messages[0]['role'] == 'system' %}"
    "{% set folded = namespace(messages=[], system=messages[0]['content']) %}"
    "{% for message in messages[1:] %}{% if message['role'] == 'user' and folded.system %}"
    "{% set content = folded.system + '\\n\\n' + message['content'] %}"
    "{% set folded.messages = folded.messages + [{'role': 'user', 'content': content}] %}{% set folded.system = '' %}"
    "{% else %}{% set folded.messages = folded.messages + [message] %}{% endif %}{% endfor %}"
    "{% set messages = folded.messages %}{% endif %}"
)
_DEFAULT_SYSTEM = (
    "{{% if not messages or messages[0]['role'] != 'system' %}}"
    "{{% set messages = [{{'role': 'system', 'content': {}}}] + messages %}}{{% endif %}}"
)
_OPENED_ANSWER = (
    "{{%+ if add_generation_prompt and messages and messages[-1]['role'] == 'user' %}}{{{{ {} }}}}{{% endif %}}"
)
# What opens a model's thinking, such as <think>, [THINK], <seed:think> or <|START_THINKING|>.
_OPENS_THINKING = re.compile(
    r"[<\[\u25c1]\|?(?!/|no)(?:(?!end)[\w:])*(?:think|thought|reason)(?:(?!end)[\w:])*\|?[>\]\u25b7]", re.IGNORECASE
)


def template_source(tokenizer: PreTrainedTokenizerBase) -> str:
    """The Jinja source of the chat template, "" where there is none."""
    if not tokenizer.chat_template:
        return ""
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:
        raise ConfigurationError(
            f"the tokenizer {tokenizer_name(tokenizer)} has several chat templates and none named 'default'; set "
            "tokenizer.chat_template to the one to use"
        ) from error


def pin_template(tokenizer: PreTrainedTokenizerBase, system_prompt: str | None = None) -> None:
    """Change the chat templates of ``tokenizer`` so that they give everyone who renders them the frame of training.

    What is pinned: the date, that the model does not think, how an answer opens, and the system message of conversations
    that bring none. Of several templates each is; one that cannot be trained in stays as it is.

    Args:
        tokenizer: changed in place.
        system_prompt: that of training.
    """
    given: str | dict[str, str] | None = tokenizer.chat_template
    if isinstance(given, dict):
        tokenizer.chat_template = {name: _pinned(tokenizer, source, system_prompt) for name, source in given.items()}
    elif given:
        tokenizer.chat_template = _pinned(tokenizer, given, system_prompt)


def _pinned(tokenizer: PreTrainedTokenizerBase, source: str, system_prompt: str | None) -> str:
    try:
        return ChatEncoder(tokenizer, system_prompt, source).template
    except ConfigurationError:
        return source


def _with_fixed_names(source: str) -> str:
    """``source`` with the date and thinking pinned, where it asks for them."""
    if _PINNED in source:
        return source
    pins = _FIXED_DATE * ("strftime_now" in source) + _NO_THINKING * ("enable_thinking" in source)
    return _before(_PINNED + pins, source) if pins else source


def _before(statements: str, source: str) -> str:
    """``source`` behind ``statements``; a newline after them would be dropped, and white space after it stays."""
    return statements + ("\n" if source[:1].isspace() else "") + source


def _closed_thinking(tail: str, known: str) -> str:
    """The text that closes the thinking block which ``tail``, the end of a prompt, opens; "" where none is open.

    Args:
        tail: the prompt after the user's words.
        known: text in which the closing tag may stand.
    """
    *_, opened = [None, *_OPENS_THINKING.finditer(tail)]
    if opened is None:
        return ""
    tag, inside = opened[0], tail[opened.end() :]
    ended = re.sub("start|begin", lambda word: "END" if word[0].isupper() else "end", tag, flags=re.IGNORECASE)
    slashed = re.sub(r"^.\|?", lambda bracket: bracket[0] + "/", tag)
    candidates = [each for each in (slashed, ended) if each != tag]
    if any(each in inside for each in candidates):
        return ""
    close = next((each for each in candidates if each in known), candidates[-1])
    break_before = "\n\n".removeprefix(inside) if not inside.strip("\n") else "\n" * (not inside.endswith("\n"))
    return f"{break_before}{close}\n\n"


def unused_characters(texts: Sequence[str]) -> Iterator[str]:
    """Private-use characters that occur in none of ``texts``."""
    used = set().union(*texts)
    candidates = map(chr, chain(range(0xE000, 0xF900), range(0xF0000, 0xFFFFE)))
    return (character for character in candidates if character not in used)


def read_conversation(messages: Sequence[Message], system_prompt: str | None) -> list[tuple[str, str]]:
    """(role, content) pairs ending with the user's; ``system_prompt`` first unless the messages bring their own.

    Raises:
        DataError: a message without role or text, or a conversation that does not end with the user.
    """
    conversation: list[tuple[str, str]] = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(f"a message must hold 'role' and 'content', both text, but one is {dict(message)}")
        conversation.append((role, content))
    if not conversation or conversation[-1][0] != "user":
        raise DataError("a prompt must end with a message of role 'user'; the answer belongs into 'completion'")
    if conversation[0][0] != "system" and system_prompt is not None:
        conversation.insert(0, ("system", system_prompt))
    return conversation


def _split(text: str, characters: str) -> list[str]:
    """Text pieces at even places, the characters that cut them at odd ones."""
    return re.split(f"([{characters}])", text) if characters else [text]


class ChatEncoder:
    """Renders conversations with the tokenizer's chat template.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        system_prompt: stands in front of every conversation that brings no system message of its own; None leaves what
            the template does by default.
        source: the template; default: the tokenizer's own.

    Attributes:
        template: that template, pinned; see `pin_template`.

    Raises:
        ConfigurationError: the template fails, or drops, repeats or alters what it is given.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None = None, source: str | None = None
    ) -> None:
        """See the class."""
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self.frame_text = template_source(tokenizer) if source is None else source
        self.template = _with_fixed_names(self.frame_text)
        slots = unused_characters([self.frame_text, *tokenizer.get_added_vocab()])
        system, user, assistant = next(slots), next(slots), next(slots)
        question = [{"role": "user", "content": user}]

        self.answer_gap = ""  # the template itself parts the turns
        if not self._takes_system(system, question):
            self.template = _before(_FOLDED_SYSTEM, self.template)
        prompt = self._render(question, generation=True)
        full = self._render([*question, {"role": "assistant", "content": assistant}], generation=False)
        self._require_once(prompt, {user: "the user message"})
        self._require_once(full, {user: "the user message", assistant: "the assistant message"})
        opening = self._find_opening(prompt, full, assistant)
        opening += _closed_thinking(prompt[prompt.index(user) + 1 :] + opening, self.frame_text)
        if opening:
            self.template = self.template.removesuffix("\n") + _OPENED_ANSWER.format(
                json.dumps(opening, ensure_ascii=False)
            )
        if system_prompt is not None and self._render(question, generation=True) != self._render(
            [{"role": "system", "content": system_prompt}, *question], generation=True
        ):
            self.template = _before(
                _DEFAULT_SYSTEM.format(json.dumps(system_prompt, ensure_ascii=False)), self.template
            )
        self.text = TextEncoder(tokenizer, self.frame_text + full + prompt + opening)
        self.end_of_turn = self._find_end_of_turn(full[full.index(assistant) + 1 :])

    def prompt(self, messages: Sequence[Message], slots: str = "", lead: str = "") -> list[list[int]]:
        """Ids of a conversation up to where the assistant's answer begins, cut at the characters of ``slots``.

        Args:
            messages: ending with a user message.
            slots: characters in the messages at which to cut; each must be rendered exactly once.
            lead: the first words of the answer.

        Returns:
            len(slots) + 1 lists of ids.

        Raises:
            DataError: a message without text, or a conversation that does not end with the user.
            ConfigurationError: the template cannot render the conversation, or does not keep what is put in.
        """
        conversation = read_conversation(messages, self.system_prompt)
        free = unused_characters([self.frame_text, slots, lead, *(content for _, content in conversation)])
        # Text that would forge a control token is held out of the rendering and encoded on its own.
        held: dict[str, str] = {}
        for i, (role, content) in enumerate(conversation):
            parts = _split(content, slots)
            for j in range(0, len(parts), 2):
                if self.text.forges(parts[j]):
                    character = next(free)
                    held[character], parts[j] = parts[j], character
            conversation[i] = (role, "".join(parts))
        rendered = self._render([{"role": role, "content": content} for role, content in conversation], generation=True)
        self._require_once(rendered, {**dict.fromkeys(slots, "the user message"), **dict.fromkeys(held, "a message")})
        pieces = _split(rendered + lead, slots)[::2]
        return [self._encode_held(piece, held) for piece in pieces]

    def _encode_held(self, piece: str, held: Mapping[str, str]) -> list[int]:
        ids: list[int] = []
        for part in _split(piece, "".join(held)):
            ids += self.text.encode(held[part]).ids if part in held else self.text.literal(part)
        return ids

    def _render(self, messages: Sequence[Mapping[str, str]], generation: bool) -> str:
        try:
            rendered = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=generation,
            )
        except (TemplateError, TypeError) as error:
            raise ConfigurationError(
                f"the chat template of {tokenizer_name(self.tokenizer)} cannot render a conversation with the roles "
                f"{', '.join(message['role'] for message in messages)}: {error}; set tokenizer.chat_template to one "
                "that can, or to None for a plain frame"
            ) from error
        assert isinstance(rendered, str)
        return rendered

    def _require_once(self, rendered: str, slots: Mapping[str, str]) -> None:
        for character, meaning in slots.items():
            count = rendered.count(character)
            if count != 1:
                fault = "drops or alters" if count == 0 else f"repeats ({count} times)"
                raise ConfigurationError(
                    f"the chat template of {tokenizer_name(self.tokenizer)} {fault} {meaning}, expected it once as "
                    "given; set tokenizer.chat_template to one that keeps it, or to None for a plain frame"
                )

    def _takes_system(self, system: str, question: list[dict[str, str]]) -> bool:
        try:
            rendered = self._render([{"role": "system", "content": system}, *question], generation=True)
        except ConfigurationError:
            return False
        return rendered.count(system) == 1

    @staticmethod
    def _find_opening(prompt: str, full: str, assistant: str) -> str:
        """What the template puts between the generation prompt and an answer, where the answer needs it.

        That is all of it where the template knows no generation prompt, and markers that the model would otherwise have
        to write itself (``<|channel|>final<|message|>``). White space alone is left out: no question would end with it.
        """
        opening = full[len(prompt) : full.index(assistant)] if full.startswith(prompt) else ""
        return opening.rstrip(" ") if opening.strip() else ""

    def _find_end_of_turn(self, closing: str) -> int:
        closing = closing.lstrip()
        ids = self.text.literal(closing)
        if ids and self.text.is_control(ids[0], closing):
            return ids[0]
        return end_of_text_id(self.tokenizer)


class PlainEncoder:
    """Stands in for a `ChatEncoder` where the model has no chat template: turns are paragraphs, EOS ends the answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None = None) -> None:
        """See the class."""
        self.system_prompt = system_prompt
        self.text = TextEncoder(tokenizer)
        self.end_of_turn = end_of_text_id(tokenizer)
        self.frame_text = ""
        self.answer_gap = "\n\n"
        self._begin = begin_of_text_ids(tokenizer)

    def prompt(self, messages: Sequence[Message], slots: str = "", lead: str = "") -> list[list[int]]:
        """As `ChatEncoder.prompt`."""
        conversation = read_conversation(messages, self.system_prompt)
        paragraphs = [content for _, content in conversation if content]
        text = "\n\n".join(paragraphs) + lead
        first, *others = (self.text.guarded(piece) for piece in _split(text, slots)[::2])
        return [self._begin + first, *others]
