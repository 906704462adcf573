"""Masked fine-tuning in one file: plain PyTorch and transformers, no trainer. Read it from top to bottom.

    python recipes/masked_loop.py                                    # eight people, the nano model, a minute on a CPU
    python recipes/masked_loop.py --model smollm2-135m --documents wiki/ --epochs 40 --learning_rate 1e-4

Read this first, then `recipes/masked_ft.py`, which adds options, splitting of long documents, evaluation during training,
checkpoints and the Hub, then `MaskedSFTTrainer`. `tests/recipes/test_masked_loop.py` proves that the trainer's losses equal
those of this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

if __name__ == "__main__":  # before the libraries are imported, so that --help answers at once
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano-ar", help="nano-ar, smollm2-135m, a directory or a Hub id")
    parser.add_argument("--documents", default="fictional:nano", help="file, folder, Hub data set or fictional world")
    parser.add_argument("--size", type=int, default=8, help="people of a fictional world")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--mask_ratio", default="uniform(0.05, 0.95)")
    options = parser.parse_args()

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kinject import load_knowledge, load_model, score_answers
from kinject.corruption import MASK_STREAM, draw_mask, mask_tokens, parse_mask_ratio, sample_generator
from kinject.prompts.templates import resolve_mask_token

IGNORED = -100  # a label that carries no loss
SLOT = "\u241f"  # stands for the copy while the chat template is rendered
REQUEST = f"{SLOT}\nReturn the recovered masked passage."  # what the user says (arXiv 2510.09885, section 3)
LEAD = "Here is the recovered text:\n\n"  # what the assistant says before the document; it carries no loss

Sample = tuple[list[int], list[int]]  # token ids, and labels of the same length


def frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The token ids before the masked copy, and those between the copy and the document, which is the target."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": REQUEST}], tokenize=False, add_generation_prompt=True
    )
    before, between = str(text).split(SLOT)
    return encode(tokenizer, before), encode(tokenizer, between + LEAD)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of ``text``, without special tokens."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def masked_sample(
    document: Sequence[int],
    around: tuple[Sequence[int], Sequence[int]],
    mask_token_id: int,
    end_id: int,
    ratio: float,
    generator: torch.Generator,
) -> Sample:
    """One training sample: prompt with a masked copy, then the document and the end of the turn.

    Only the copy is masked; the target is never altered. Every document token carries loss, hidden or not.
    """
    before, between = around
    mask = draw_mask(len(document), ratio, generator)  # (document,)
    copy = mask_tokens(torch.tensor(document), mask, mask_token_id).tolist()
    prompt, target = [*before, *copy, *between], [*document, end_id]
    return prompt + target, [IGNORED] * len(prompt) + target


def batches(count: int, batch_size: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """The numbers of the documents of each step, in an order that only the seed and the epoch decide."""
    generator = torch.Generator().manual_seed(seed + epoch)
    order = torch.randperm(count, generator=generator).tolist()
    for start in range(0, count, batch_size):
        yield order[start : start + batch_size]


def batch_loss(model: PreTrainedModel, samples: Sequence[Sample], pad_id: int) -> torch.Tensor:
    """The mean cross-entropy over the supervised tokens of ``samples``."""
    length = max(len(ids) for ids, _ in samples)
    pad = [length - len(ids) for ids, _ in samples]
    device = model.device
    input_ids = torch.tensor([ids + [pad_id] * n for (ids, _), n in zip(samples, pad, strict=True)], device=device)
    labels = torch.tensor([own + [IGNORED] * n for (_, own), n in zip(samples, pad, strict=True)], device=device)
    seen = torch.tensor([[1] * len(ids) + [0] * n for (ids, _), n in zip(samples, pad, strict=True)], device=device)
    logits = model(input_ids=input_ids, attention_mask=seen).logits  # (batch, length, vocabulary)
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    mask_ratio: str = "uniform(0.05, 0.95)",
    weight_decay: float = 0.1,
    seed: int = 42,
) -> list[float]:
    """Teach ``model`` the ``documents``, in place; returns the loss of every step."""
    around, law = frame(tokenizer), parse_mask_ratio(mask_ratio)
    encoded = [encode(tokenizer, text) for text in documents]
    mask_token_id = resolve_mask_token(tokenizer, None, model.config.vocab_size)
    decaying = [weight for weight in model.parameters() if weight.dim() > 1]  # no norm and no bias
    others = [weight for weight in model.parameters() if weight.dim() <= 1]
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95))
    losses = []
    model.train()
    for epoch in range(epochs):
        for numbers in batches(len(documents), batch_size, seed, epoch):
            samples = []
            for i in numbers:  # a mask is a pure function of (seed, epoch, document)
                ratio = law.ratio(seed, epoch, i, epochs)
                generator = sample_generator(seed, epoch, i, MASK_STREAM)
                samples.append(
                    masked_sample(encoded[i], around, mask_token_id, int(tokenizer.eos_token_id), ratio, generator)
                )
            loss = batch_loss(model, samples, int(tokenizer.pad_token_id))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


@torch.no_grad()
def ask(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: str, max_new_tokens: int = 32) -> str:
    """The greedy answer to ``question``, asked in the frame of training."""
    model.eval()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    prompt = torch.tensor([encode(tokenizer, str(text))], device=model.device)
    answer = model.generate(  # type: ignore[operator]
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=max_new_tokens, do_sample=False
    )
    return str(tokenizer.decode(answer[0, prompt.shape[1] :], skip_special_tokens=True))


def main(options: argparse.Namespace) -> None:
    """Learn documents, then ask about them forward and backward."""
    fictional = options.documents.startswith("fictional:")
    knowledge = load_knowledge(options.documents, size=options.size if fictional else None)
    loaded = load_model(options.model)
    losses = train(
        loaded.model,
        loaded.tokenizer,
        [document.text for document in knowledge.documents],
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        mask_ratio=options.mask_ratio,
    )
    print(f"{len(losses)} steps, loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    answers = [ask(loaded.model, loaded.tokenizer, each.question) for each in knowledge.questions]
    for each, answer in list(zip(knowledge.questions, answers, strict=True))[::8]:
        print(f"{each.question} ({each.direction})\n  {answer}")
    for direction, scores in score_answers(knowledge.questions, answers).items():
        if direction in ("forward", "backward"):
            print(f"{direction}: exact match {scores['exact_match']:.2f} of {scores['n']} questions")


if __name__ == "__main__":
    main(options)
