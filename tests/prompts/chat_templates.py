"""Chat templates of the shapes that occur, each with a byte-level tokenizer, written for the tests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from tests.conftest import CHATML, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


@dataclass(frozen=True)
class ChatCase:
    """A template, what ends its turns, the EOS, and what a turn opens with at question time."""

    name: str
    template: str | None
    end_of_turn: str
    eos: str
    opening: str


_HEADER = "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"

CASES = (
    ChatCase("chatml", CHATML, "<|im_end|>", "<|im_end|>", "<|im_start|>assistant\n"),
    ChatCase(
        "chatml_default_system",
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}" + CHATML,
        "<|im_end|>",
        "<|endoftext|>",
        "<|im_start|>assistant\n",
    ),
    ChatCase(
        "llama3",  # trims contents, adds BOS
        "{{ bos_token }}{% for m in messages %}" + _HEADER + "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        "<|eot_id|>",
        "<|end_of_text|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    ChatCase(
        "llama3_dated",  # prints today's date
        "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday: {{ strftime_now('%d %b %Y') }}\n"
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% set messages = messages[1:] %}{% endif %}"
        "<|eot_id|>{% for m in messages %}" + _HEADER + "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        "<|eot_id|>",
        "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    ChatCase(
        "gemma",  # no system role, another name for the assistant
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate') }}{% endif %}"
        "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        "<end_of_turn>",
        "<eos>",
        "<start_of_turn>model\n",
    ),
    ChatCase(
        "mistral",  # no generation prompt, a space before the answer, EOS after it
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for m in messages %}"
        "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
        "{% if m['role'] == 'user' %}[INST] {{ (system if loop.last else '') + m['content'] }} [/INST]"
        "{% else %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}",
        "</s>",
        "</s>",
        "[/INST]",
    ),
    ChatCase(
        "qwen3",  # an empty think block where thinking is off, history without think blocks
        "{% for m in messages %}{% if m['role'] == 'assistant' %}"
        "{% if '</think>' in m['content'] %}{% set content = m['content'].split('</think>')[-1].lstrip('\n') %}"
        "{% else %}{% set content = m['content'] %}{% endif %}"
        "<|im_start|>assistant\n{% if loop.last %}<think>\n\n</think>\n\n{% endif %}{{ content }}<|im_end|>\n"
        "{% else %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
        "<|im_end|>",
        "<|im_end|>",
        "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    ChatCase(
        "phi",  # markers put together from the role, EOS at the very end
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        "<|end|>",
        "<|endoftext|>",
        "<|assistant|>\n",
    ),
    ChatCase(
        "zephyr",  # markers that are plain text
        "{% for m in messages %}{{ '<|z_' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|z_assistant|>\n' }}{% endif %}",
        "</s>",
        "</s>",
        "<|z_assistant|>\n",
    ),
    ChatCase(
        "channels",  # an answer needs more than the generation prompt
        "{% for m in messages %}<|start|>{{ m['role'] }}{% if m['role'] == 'assistant' %}<|channel|>final{% endif %}"
        "<|message|>{{ m['content'] }}{{ '<|return|>' if loop.last and m['role'] == 'assistant' else '<|end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        "<|return|>",
        "<|return|>",
        "<|start|>assistant<|channel|>final<|message|>",
    ),
    ChatCase(
        "no_generation_prompt",
        CHATML.split("{% if")[0],
        "<|im_end|>",
        "<|im_end|>",
        "<|im_start|>assistant\n",
    ),
    ChatCase(
        "r1",  # opens its thinking, always, and leaves it out of earlier turns
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
        "{% elif m['role'] == 'user' %}<|user|>{{ m['content'] }}"
        "{% else %}<|assistant|>{{ m['content'].split('</think>')[-1] }}<|endoftext|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}",
        "<|endoftext|>",
        "<|endoftext|>",
        "<|assistant|><think>\n\n</think>\n\n",
    ),
    ChatCase("none", None, "<|endoftext|>", "<|endoftext|>", "\n\n"),
)

BY_NAME = {case.name: case for case in CASES}

CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<eos>",
    "</s>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|return|>",
    "<|reserved_special_token_0|>",
)


@cache
def tokenizer_of(case: ChatCase) -> PreTrainedTokenizerFast:
    """The tokenizer of ``case``; "<think>" and "</think>" are added tokens that are not special, as in Qwen3."""
    tokenizer = build_tokenizer(case.template, extra_tokens=CONTROL_TOKENS)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.eos_token = case.eos
    return tokenizer


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """What ``ids`` say, control tokens included."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
