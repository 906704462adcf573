"""How much faster questions are answered than with 128 new tokens for every question, and whether the answers are the same.

    python recipes/benchmarks/answering.py                     # nano-ar, about the people it was pretrained on
    python recipes/benchmarks/answering.py --quick --json out.json
    python recipes/benchmarks/answering.py --documents data/name_description        # SmolLM2-135M, after 20 epochs of them
    python recipes/benchmarks/answering.py --model RUN --documents data/name_description

Two ways answer all questions of the documents, greedily, in the memory of the same batch size, in turns in one process:

- `public`: as in the paper's code. Batches in the order of the questions; always 128 tokens for each; the answer is cut at its
  end afterwards.
- `ours`: `kinject.evaluation.answer_questions`, which answers more questions at once where answers are short.

The gain depends on how long the answers are, so the model should have learned to end them, as nano-ar and any finished run
have. Other models first learn the documents by masked fine-tuning (`--epochs`). Prints a table; `--json` writes `ratios`:
`wall` (seconds, public over ours) and `same_answers`, the share of answers that are equal.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measuring import at_least_one, environment, medians, print_table, take_turns, write_report

from kinject.errors import ConfigurationError, exit_on_user_error

if TYPE_CHECKING:
    from kinject.data import KnowledgeSet
    from kinject.models import LoadedModel

WAYS = ("public", "ours")
NANO = "fictional:nano_population"
QUICK = 64  # questions


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="Time answers against 128 new tokens for every question.")
    parser.add_argument(
        "--model", help="nano-ar, smollm2-135m, a directory or a Hub id (default: one for the documents)"
    )
    parser.add_argument("--documents", default=NANO, help=f"documents with questions (default: {NANO})")
    parser.add_argument("--size", type=at_least_one, help="number of people of a fictional world")
    parser.add_argument("--questions", type=at_least_one, default=480, help="the most questions (default: 480)")
    parser.add_argument("--quick", action="store_true", help=f"ask {QUICK}, once")
    parser.add_argument(
        "--epochs", type=int, help="epochs of masked fine-tuning first (default: 20 for smollm2-135m, else 0)"
    )
    parser.add_argument(
        "--batch_size", type=at_least_one, default=32, help="questions at once, in both ways (default: 32)"
    )
    parser.add_argument("--max_new_tokens", type=at_least_one, default=128, help="tokens of an answer (default: 128)")
    parser.add_argument("--repetitions", type=at_least_one, default=3, help="how often all are asked (default: 3)")
    parser.add_argument("--json", metavar="PATH", help="write ratios and details here")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    arguments = build_parser().parse_args(argv)
    if arguments.quick:
        arguments.questions, arguments.repetitions = QUICK, 1
    with exit_on_user_error():
        report = compare(arguments)
        show(report)
        write_report(arguments.json, report)


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Answer all questions both ways.

    Returns:
        The report that `--json` writes.

    Raises:
        KinjectError: documents or model that cannot be used.
    """
    from kinject.data import load_knowledge
    from kinject.evaluation import answer_questions
    from kinject.evaluation.measures import exact_match
    from kinject.models import load_model

    model = arguments.model or ("nano-ar" if arguments.documents == NANO else "smollm2-135m")
    knowledge = load_knowledge(arguments.documents, size=arguments.size)
    distinct = list({each.question: each for each in knowledge.questions}.values())
    asked = distinct[:: max(1, len(distinct) // arguments.questions)][: arguments.questions]
    if not asked:
        raise ConfigurationError(f"--documents {arguments.documents} bring no questions; name a set that does")
    questions = [each.question for each in asked]
    loaded = load_model(model)
    epochs = arguments.epochs if arguments.epochs is not None else 20 * (model == "smollm2-135m")
    if epochs:
        teach(loaded, knowledge, epochs)
    limits = {"max_new_tokens": arguments.max_new_tokens, "batch_size": arguments.batch_size}
    answers: dict[str, list[str]] = {}

    def timed(way: str, asked: Sequence[str]) -> float:
        started = time.perf_counter()
        if way == "ours":
            answers[way] = answer_questions(loaded.model, loaded.tokenizer, asked, **limits)
        else:
            answers[way] = answer_in_full(loaded, asked, **limits)
        return time.perf_counter() - started

    for way in WAYS:  # warm up
        timed(way, questions[:1])
    passes = {"public": lambda: timed("public", questions), "ours": lambda: timed("ours", questions)}
    seconds = take_turns(passes, arguments.repetitions)
    median = medians(seconds)
    differing = [
        {"question": question, "public": public, "ours": ours}
        for question, public, ours in zip(questions, answers["public"], answers["ours"], strict=True)
        if public != ours
    ]
    right = [exact_match(given, each.answer) for given, each in zip(answers["ours"], asked, strict=True)]
    lengths = [len(loaded.tokenizer(answer)["input_ids"]) for answer in answers["ours"]]
    return {
        "ratios": {
            "wall": median["public"] / median["ours"],
            "same_answers": 1 - len(differing) / len(questions),
        },
        "seconds": seconds,
        "tokens_of_an_answer": {"mean": sum(lengths) / len(lengths), "most": max(lengths)},
        "exact_match": sum(right) / len(right),
        "questions": len(questions),
        **limits,
        "model": Path(model).name,
        "documents": Path(arguments.documents).name,
        "epochs": epochs,
        "differing": differing,
        **environment(),
    }


def teach(loaded: LoadedModel, knowledge: KnowledgeSet, epochs: int) -> None:
    """Teach ``loaded`` the documents by masked fine-tuning, so that it answers with a statement and then stops."""
    from kinject.trainers import MaskedSFTConfig, MaskedSFTTrainer

    with tempfile.TemporaryDirectory() as directory:
        args = MaskedSFTConfig(
            directory,
            mask_ratio="stratified(0.1, 1.0)",
            mask_unit="mixed",
            wordings="rotating",
            num_train_epochs=epochs,
            per_device_train_batch_size=5,
            learning_rate=3e-4,
            bf16=False,  # in bf16 the model would also answer in bf16, where near ties may go either way
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
        )
        MaskedSFTTrainer(
            loaded.model, args, train_dataset=knowledge.to_dataset(), processing_class=loaded.tokenizer
        ).train()


def answer_in_full(loaded: LoadedModel, questions: Sequence[str], max_new_tokens: int, batch_size: int) -> list[str]:
    """The answers to ``questions``, each cut out of ``max_new_tokens`` tokens."""
    import torch
    from transformers import GenerationConfig

    from kinject.evaluation.asking import evaluating
    from kinject.evaluation.generating import until_end
    from kinject.prompts.templates import QuestionTemplate

    template = QuestionTemplate(loaded.tokenizer)
    model: Any = loaded.model
    pad = int(loaded.tokenizer.pad_token_id or 0)
    config = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=pad, use_cache=True)
    answers: list[str] = []
    with evaluating(model):
        for start in range(0, len(questions), batch_size):
            prompts = [template.encode(question) for question in questions[start : start + batch_size]]
            width = max(map(len, prompts))
            rows = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])  # (batch, width)
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
            output = model.generate(input_ids=rows, attention_mask=mask, generation_config=config)
            for row in output[:, width:].tolist():
                text = loaded.tokenizer.decode(until_end(row, template.end_ids), skip_special_tokens=True)
                answers.append(str(text).strip())
    return answers


def show(report: dict[str, Any]) -> None:
    """Print ``report`` as a table."""
    median, ratios = medians(report["seconds"]), report["ratios"]
    print_table([["", "seconds"], *([way, f"{median[way]:.2f}"] for way in WAYS), ["ratio", f"{ratios['wall']:.1f}x"]])
    length = report["tokens_of_an_answer"]
    print(
        f"\n{report['questions']} questions, answers of {length['mean']:.1f} tokens (at most {length['most']}), "
        f"{ratios['same_answers']:.1%} the same both ways"
    )


if __name__ == "__main__":
    main()
