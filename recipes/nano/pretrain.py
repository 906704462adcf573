r"""Brings up the three nano models from random weights, on a population of invented people; two CPU cores suffice.

    run=recipes/nano/pretrain.py out=outputs/nano ship=kinject/models/nano
    python $run --kind ar --output_dir $out/ar-child
    python $run --kind ar --init $out/ar-child --seed 1 --output_dir $ship/ar
    python $run --kind diffusion --init $out/ar-child --output_dir $out/diffusion-child
    python $run --kind diffusion --init $out/diffusion-child --seed 1 --steps 1500 --long_canvases 0.35 \
        --output_dir $ship/diffusion
    python $run --kind block --init $ship/ar --seed 1 --steps 120 --learning_rate 1e-3 --output_dir $ship/block

The first AR model learns from random weights. It goes on as `nano-ar`, and it is where `nano-diffusion` starts: the same
blocks, with shifted logits (Dream, arXiv 2508.15487), which takes a tenth of the steps that random weights take. That
one then learns to put short answers on long canvases. `nano-block` starts from `nano-ar`: shifted logits, blocks of four
tokens, and rows that are filled up to whole blocks.

Both read documents about everybody (half of the people in one wording only, the others in all wordings and both orders)
and answer questions both ways about most of them; the AR model restores masked documents as well. People who are never
asked about show whether knowledge passes from documents to answers. Writes the model, its tokenizer and
`pretraining.json`: command, seed, time, accuracy.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinject.data.worlds import MEN, WOMEN, nano

if __name__ == "__main__":  # before the libraries are imported, so that --help answers at once
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("ar", "diffusion", "block"), required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--init", help="AR model to start from; a diffusion model needs one")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--people", type=int, default=nano.POPULATION)
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches; the people are always the same")
    parser.add_argument(
        "--long_canvases",
        type=float,
        default=0.1,
        help="share of diffusion's questions with an answer canvas up to 120",
    )
    parser.add_argument("--block_length", type=int, default=4, help="tokens of a block, of --kind block")
    parser.add_argument("--evaluate_every", type=int, default=600)
    arguments = parser.parse_args()
    if arguments.kind != "ar" and not arguments.init:
        parser.error(f"--kind {arguments.kind} needs --init, an AR model")

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kinject.corruption import draw_mask, mask_tokens, parse_mask_ratio, sample_generator
from kinject.evaluation.asking import answer_questions
from kinject.models import DiffusionSettings, diffusion_settings, load_model
from kinject.models.diffusion import Tokens, block_mask
from kinject.prompts.encoding import TextEncoder
from kinject.prompts.templates import (
    DEMASKING_WORDINGS,
    FACT,
    IGNORED,
    MASKED_ANSWER,
    Assembled,
    DocumentTemplate,
    Frame,
    QuestionTemplate,
    assemble,
)
from kinject.trainers.collator import Masking, padded
from kinject.trainers.diffusion_trainer import BlockCollator, Noised

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
# Shares of a batch. Diffusion restores masked text in every row.
_HALVES = {"question": 0.5, "fact": 0.5}
SHARES = {"ar": {"question": 0.4, "fact": 0.35, "restore": 0.25}, "diffusion": _HALVES, "block": _HALVES}
LONG_ROW = 40  # rows above this length go through the model apart, so that short ones carry little padding
LOWEST_WEIGHTED_RATIO = 0.1  # bounds the weights 1/t of the diffusion loss, whose variance a small model feels


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer in which every word of the nano worlds is one token; any other text is spelled out."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    words = [*WOMEN, *MEN, *nano.SURNAMES, *nano.QUALITIES, *nano.ROLES, *nano.PLACES, *nano.INSTRUMENTS, "She", "He"]
    wordings = [*nano.NAME_FIRST, *nano.DESCRIPTION_FIRST, *nano.NAME_QUESTIONS, *nano.DESCRIPTION_QUESTIONS]
    wordings += [wording for sentences in nano.LIFE.values() for wording in sentences]
    wordings += [*nano.LIFE_QUESTIONS.values(), *nano.LIFE_BACKWARD, "The", "the"]
    for prompt in (*DEMASKING_WORDINGS, MASKED_ANSWER, FACT):
        wordings += [str(prompt.user), prompt.assistant]
    texts = [" " + text for text in words + [re.sub(r"\{\w+\}", " ", wording) for wording in wordings]]
    backend = Tokenizer(models.BPE())
    # Words at the start of a text and inside it share a token.
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|pad|>", "<|bos|>", "<|end|>", "<|mask|>", *ROLES],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        mask_token="<|mask|>",
        additional_special_tokens=ROLES,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama of 1.1 million parameters with random weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


@dataclass(frozen=True)
class Upbringing:
    """The population as token ids.

    Attributes:
        documents: A list of documents for each person.
        questions: `(question, answer)` texts and `(prompt, answer)` ids for each person who is asked about.
        unasked: `(question, answer)` texts about the others, who are met in documents alone.
    """

    documents: list[list[list[int]]]
    questions: list[list[tuple[list[int], list[int]]]]
    asked: list[tuple[str, str]]
    unasked: list[tuple[str, str]]


def bring_up(tokenizer: Any, size: int) -> Upbringing:
    """Encode the documents and questions about ``size`` people."""
    encoder, template = TextEncoder(tokenizer), QuestionTemplate(tokenizer)
    upbringing = Upbringing([], [], [], [])
    for person in nano.population(size):
        upbringing.documents.append([encoder.encode(text).ids for text in person.documents])
        if person.asked:
            upbringing.asked.extend(person.questions)
            upbringing.questions.append(
                [(template.encode(question), encoder.encode(answer).ids) for question, answer in person.questions]
            )
        else:
            upbringing.unasked.extend(person.questions)
    return upbringing


class Rows:
    """Draws training rows `(input ids, labels, weights of the loss)`, each `(length,)`; labels are not shifted."""

    def __init__(
        self, tokenizer: Any, population: Upbringing, kind: str, seed: int, long_canvases: float, block_length: int
    ) -> None:
        self._population, self._kind, self._block_length = population, kind, block_length
        self._seed, self._long = seed, long_canvases
        self._fact = DocumentTemplate(tokenizer, (FACT,)).frames[0]
        self._restore = DocumentTemplate(tokenizer, DEMASKING_WORDINGS).frames
        self._end, self._mask = int(tokenizer.eos_token_id), int(tokenizer.mask_token_id)

    def batch(self, step: int, size: int) -> list[tuple[list[int], list[int], list[float]]]:
        """The rows of ``step``, a pure function of seed and step."""
        rng, generator = random.Random(f"{self._seed}/{step}"), sample_generator(self._seed, 0, step)
        rows = []
        for kind, share in SHARES[self._kind].items():
            for _ in range(round(size * share)):
                row = self._row(kind, rng, generator)
                rows.append(
                    self._noised(row, kind, rng, generator)
                    if self._kind != "ar"
                    else (row.input_ids, row.labels, [float(label != IGNORED) for label in row.labels])
                )
        return rows

    def _row(self, kind: str, rng: random.Random, generator: torch.Generator) -> Assembled:
        if kind == "question":
            prompt, answer = rng.choice(rng.choice(self._population.questions))
            return assemble(Frame(tuple(prompt), (), (self._end,), False), answer, None)
        document = rng.choice(rng.choice(self._population.documents))
        if kind == "fact":
            return assemble(self._fact, document, None)
        mask = draw_mask(len(document), rng.uniform(0.1, 1.0), generator, "mixed")
        noised = mask_tokens(torch.tensor(document), mask, self._mask).tolist()
        return assemble(rng.choice(self._restore), document, noised)

    def _noised(
        self, row: Assembled, kind: str, rng: random.Random, generator: torch.Generator
    ) -> tuple[list[int], list[int], list[float]]:
        """The target hidden with ratio t, behind it end tokens up to a canvas of random length."""
        start, length = row.document_positions[0], row.document_positions[1] + 1  # the end token too
        ratio = rng.uniform(0.0, 1.0)
        mask = draw_mask(length, ratio, generator, "mixed" if rng.random() < 0.6 else "token").tolist()
        if self._kind == "block":  # what fills up the block of its end token is all that is learned behind that
            canvas = -(start + length) % self._block_length
            mask += [rng.random() < ratio for _ in range(canvas)]
            return self._weighted(row.input_ids, start, length, canvas, mask, ratio)
        most = 12 if kind == "fact" else 24 if rng.random() < 1 - self._long else 120
        canvas = rng.randrange(most) if kind == "question" or rng.random() < 0.5 else 0
        mask += [rng.random() < max(ratio, 0.5) for _ in range(canvas)] if rng.random() < 0.5 else [True] * canvas
        return self._weighted(row.input_ids, start, length, canvas, mask, ratio)

    def _weighted(
        self, input_ids: list[int], start: int, length: int, canvas: int, mask: list[bool], ratio: float
    ) -> tuple[list[int], list[int], list[float]]:
        clean = input_ids + [self._end] * canvas
        ids = clean[:start] + [self._mask if hide else each for hide, each in zip(mask, clean[start:], strict=True)]
        labels = [IGNORED] * start + [each if hide else IGNORED for hide, each in zip(mask, clean[start:], strict=True)]
        weight = 1 / max(ratio, LOWEST_WEIGHTED_RATIO)
        return (
            ids,
            labels,
            [0.0] * start + [weight] * length + [0.1] * canvas,
        )  # of the canvas there is more than enough


def collate(rows: Sequence[tuple[list[int], list[int], list[float]]], pad: int) -> tuple[torch.Tensor, ...]:
    """Ids, attention mask, labels and weights, each `(batch, length)`, padded on the right."""
    length = max(len(ids) for ids, _, _ in rows)
    ids = padded([row[0] for row in rows], length, pad)
    attention = padded([[1] * len(row[0]) for row in rows], length, 0)
    labels = padded([row[1] for row in rows], length, IGNORED)
    weights = padded([row[2] for row in rows], length, 0.0)
    return ids, attention, labels, weights


def backward(model: LlamaForCausalLM, rows: list[Any], pad: int) -> float:
    """Accumulates the gradient of the mean weighted loss of ``rows``; returns that loss."""
    long, short = [row for row in rows if len(row[0]) > LONG_ROW], [row for row in rows if len(row[0]) <= LONG_ROW]
    parts = [collate(part, pad) for part in (short, long) if part]
    # A token weighs the same in every batch: all targets count, hidden or not (the first position predicts nothing).
    count = sum(int((weights[:, 1:] > 0).sum()) for *_, weights in parts)
    total = 0.0
    for ids, attention, labels, weights in parts:
        hidden = model.model(input_ids=ids, attention_mask=attention).last_hidden_state[:, :-1]
        scored = labels[:, 1:] != IGNORED
        losses = cross_entropy(model.lm_head(hidden[scored]), labels[:, 1:][scored], reduction="none")
        loss = (losses * weights[:, 1:][scored]).sum() / count
        loss.backward()
        total += loss.item()
    return total


def backward_in_blocks(model: LlamaForCausalLM, rows: list[Any], pad: int, settings: DiffusionSettings) -> float:
    """As `backward`, of a block diffusion model: rows as their noisy blocks and the clean text before them."""
    assert settings.block_length is not None
    collator = BlockCollator(
        (),
        pad,
        0,
        Masking(parse_mask_ratio("1"), settings.mask_token_id, torch.empty(0)),
        block_length=settings.block_length,
        shifted=settings.shifted_logits,
    )
    long, short = [row for row in rows if len(row[0]) > LONG_ROW], [row for row in rows if len(row[0]) <= LONG_ROW]
    count = sum(sum(weight > 0 for weight in weights) for *_, weights in rows)
    total = 0.0
    for part in filter(None, (short, long)):
        noised = []
        for ids, labels, weights in part:
            hidden = [label != IGNORED for label in labels]
            clean = [label if hide else token for token, label, hide in zip(ids, labels, hidden, strict=True)]
            noised.append(Noised(clean, hidden, weights, sum(weight > 0 for weight in weights)))
        batch = collator.lay_out(noised)
        tokens = Tokens(batch["position_ids"], batch["clean"], batch["attention_mask"].bool())
        states = model.model(
            input_ids=batch["input_ids"],
            attention_mask=block_mask(model, tokens, settings.block_length),
            position_ids=batch["position_ids"],
        ).last_hidden_state
        of, columns = batch["supervised"]
        logits = model.lm_head(states[of, columns - int(settings.shifted_logits)])
        losses = cross_entropy(logits, batch["labels"][of, columns], reduction="none")
        loss = (losses * batch["ratios"][of, columns]).sum() / count  # where the weights stand
        loss.backward()
        total += loss.item()
    return total


def accuracy(model: Any, tokenizer: Any, questions: Sequence[tuple[str, str]], most: int = 400) -> float:
    """Share of ``questions``, spread over at most ``most``, that are answered word for word."""
    chosen = questions[:: max(1, len(questions) // most)]
    answers = answer_questions(model, tokenizer, [question for question, _ in chosen], max_new_tokens=16)
    return round(sum(given == right for given, (_, right) in zip(answers, chosen, strict=True)) / len(chosen), 4)


def learning_rates(steps: int, peak: float) -> Iterator[float]:
    """Rises for 100 steps, stays, and falls over the last quarter."""
    for step in range(steps):
        yield peak * min(1.0, (step + 1) / 100) * min(1.0, max(0.02, (steps - step) / (steps / 4)))


def main(arguments: argparse.Namespace) -> None:
    """Pretrain one of the three models."""
    convert: Any = {"ar": False, "diffusion": True, "block": "block"}[arguments.kind]

    started = time.monotonic()
    model: Any
    tokenizer: Any
    if arguments.init:
        loaded = load_model(arguments.init, to_diffusion=convert, block_length=arguments.block_length)
        tokenizer, model = loaded.tokenizer, loaded.model
    else:
        tokenizer = build_tokenizer()
        model = build_model(tokenizer, arguments.seed)
    population = bring_up(tokenizer, arguments.people)
    rows = Rows(tokenizer, population, arguments.kind, arguments.seed, arguments.long_canvases, arguments.block_length)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    norms = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        fused=True,
    )
    print(f"{model.num_parameters():,} parameters, vocabulary {len(tokenizer)}, {arguments.steps} steps", flush=True)
    history = []
    recent = 0.0
    for step, rate in enumerate(learning_rates(arguments.steps, arguments.learning_rate), start=1):
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = rows.batch(step, arguments.batch_size)
        if arguments.kind == "block":
            recent += backward_in_blocks(model, batch, tokenizer.pad_token_id, diffusion_settings(model))
        else:
            recent += backward(model, batch, tokenizer.pad_token_id)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % arguments.evaluate_every == 0 or step == arguments.steps:
            entry = {
                "step": step,
                "loss": round(recent / arguments.evaluate_every, 4),
                "asked": accuracy(model, tokenizer, population.asked),
                "unasked": accuracy(model, tokenizer, population.unasked),
                "seconds": round(time.monotonic() - started),
            }
            recent = 0.0
            history.append(entry)
            print(entry, flush=True)
            model.save_pretrained(arguments.output_dir)
            tokenizer.save_pretrained(arguments.output_dir)
            record = {
                "command": " ".join(["python", "recipes/nano/pretrain.py", *sys.argv[1:]]),
                "seed": arguments.seed,
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "parameters": model.num_parameters(),
                "history": history,
            }
            (arguments.output_dir / "pretraining.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(arguments)
