"""How much faster the fast mode, and a block diffusion model, answer short questions than LLaDA's published algorithm.

    python recipes/benchmarks/diffusion_answering.py                     # 200 questions to nano-diffusion and nano-block
    python recipes/benchmarks/diffusion_answering.py --quick --json out.json
    python recipes/benchmarks/diffusion_answering.py --model DIRECTORY --documents fictional:name_description

All ways answer the same questions in the same batches, in turns, in one process: 128 tokens, 128 steps and blocks of 4
for the published algorithm, as in arXiv 2510.09885; `block` is a block diffusion model, which answers in its own blocks with
a cache, and otherwise as the fast mode. Prints a table; `--json` writes `ratios`: `wall` (seconds), `nfe` (forward
evaluations a question), both published over fast, and `same_answers`, the share of answers that are equal; with a block
model also `block_wall` and `block_nfe`, published over block, and `block_wall_to_fast` and `block_nfe_to_fast`, fast over
block. An evaluation of a block model covers one block and the tokens not yet in the cache, one of another model the whole row.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measuring import at_least_one, environment, write_report

from kinject.errors import ConfigurationError, exit_on_user_error

if TYPE_CHECKING:
    from kinject.models import LoadedModel
    from kinject.sampling import SamplingConfig

QUICK = 40  # questions


@dataclass
class Way:
    """One way of answering, and its cost.

    Attributes:
        loaded: The model that is asked.
        config: Settings of the sampler.
        answers: Its answers.
        nfe: Forward evaluations of each question.
        calls: Calls of the model, a batch at a time.
        seconds: Wall clock.
    """

    loaded: LoadedModel
    config: SamplingConfig
    answers: list[str] = field(default_factory=list)
    nfe: list[int] = field(default_factory=list)
    calls: int = 0
    seconds: float = 0.0


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description="Time the fast mode of masked diffusion models against LLaDA's published algorithm."
    )
    parser.add_argument("--model", default="nano-diffusion", help="nano-diffusion, a directory or a Hub id")
    parser.add_argument(
        "--block_model", help="block diffusion model to compare (default: nano-block beside nano-diffusion, else none)"
    )
    parser.add_argument(
        "--documents",
        default="fictional:nano_population",
        help="documents with questions (default: the people whom the nano models were pretrained on)",
    )
    parser.add_argument("--size", type=at_least_one, help="number of people of a fictional world")
    parser.add_argument("--questions", type=at_least_one, default=200, help="how many to ask (default: 200)")
    parser.add_argument("--quick", action="store_true", help=f"ask {QUICK}")
    parser.add_argument(
        "--batch_size", type=at_least_one, default=32, help="questions at once, in all ways (default: 32)"
    )
    parser.add_argument(
        "--answer_length", type=at_least_one, default=128, help="tokens of an answer, in all ways (default: 128)"
    )
    parser.add_argument(
        "--steps", type=at_least_one, default=128, help="steps of the published algorithm (default: 128)"
    )
    parser.add_argument(
        "--block_length", type=at_least_one, default=4, help="tokens of a block; a block model has its own (default: 4)"
    )
    parser.add_argument("--json", metavar="PATH", help="write ratios and details here")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    arguments = build_parser().parse_args(argv)
    with exit_on_user_error():
        report = compare(arguments)
        show(report)
        write_report(arguments.json, report)


def load_questions(documents: str, size: int | None, count: int) -> list[tuple[str, str]]:
    """``count`` distinct (question, answer) pairs, spread over people.

    Raises:
        KinjectError: the documents cannot be read, or have fewer questions.
    """
    from kinject.data import load_knowledge

    by_fact: dict[int | None, list[tuple[str, str]]] = {}
    for each in load_knowledge(documents, size=size).questions:
        by_fact.setdefault(each.fact, []).append((each.question, each.answer))
    about = list(by_fact.values())
    # One question about every person, then a second one about every person; neighbors begin with another wording.
    most = max(map(len, about), default=0)
    pairs = [own[(turn + person) % len(own)] for turn in range(most) for person, own in enumerate(about)]
    distinct = list(dict(pairs).items())
    if len(distinct) < count:
        raise ConfigurationError(
            f"--documents {documents} brings {len(distinct)} questions, expected {count}; pass a larger --size, or fewer "
            "--questions"
        )
    return distinct[:count]


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Answer all questions in all ways.

    Returns:
        The report that `--json` writes.

    Raises:
        ConfigurationError: a setting that does not divide, or `--block_model` is no block diffusion model.
    """
    from kinject.models import load_model
    from kinject.models.diffusion import diffusion_settings
    from kinject.sampling import SamplingConfig

    published = SamplingConfig.published(arguments.answer_length, arguments.steps, arguments.block_length)
    fast = SamplingConfig.fast(arguments.answer_length, arguments.block_length)
    asked = load_questions(arguments.documents, arguments.size, QUICK if arguments.quick else arguments.questions)
    loaded = load_model(arguments.model)
    diffusion_settings(loaded.model)
    ways = {"published": Way(loaded, published), "fast": Way(loaded, fast)}
    block_model = arguments.block_model or ("nano-block" if arguments.model == "nano-diffusion" else None)
    if block_model is not None:
        other = load_model(block_model)
        if diffusion_settings(other.model).block_length is None:
            raise ConfigurationError(
                f"--block_model {block_model} has no blocks: every position attends to every other. Ask it with --model."
            )
        ways["block"] = Way(other, fast)
    for way in ways.values():  # warm up
        answer([asked[0][0]], Way(way.loaded, way.config), arguments.batch_size)
    for number, start in enumerate(range(0, len(asked), arguments.batch_size)):
        questions = [question for question, _ in asked[start : start + arguments.batch_size]]
        for name in reversed(ways) if number % 2 else ways:
            answer(questions, ways[name], arguments.batch_size)
        print(f"{start + len(questions)} of {len(asked)} questions", flush=True)
    return summary(arguments, asked, ways)


def answer(questions: Sequence[str], way: Way, batch_size: int) -> None:
    """Answer ``questions`` in one ``way``, on the clock from text to text."""
    from kinject.evaluation.asking import answer_ends, evaluating
    from kinject.evaluation.generating import until_end
    from kinject.prompts.templates import QuestionTemplate
    from kinject.sampling import sample

    loaded = way.loaded
    template = QuestionTemplate(loaded.tokenizer)
    ends = answer_ends(loaded.model, loaded.tokenizer, template)
    started = time.perf_counter()
    with evaluating(loaded.model):
        prompts = [template.encode(question) for question in questions]
        sampled = sample(loaded.model, prompts, way.config, end_ids=ends, batch_size=batch_size)
        texts = [loaded.tokenizer.decode(until_end(ids, ends), skip_special_tokens=True) for ids in sampled.ids]
    way.seconds += time.perf_counter() - started
    way.answers += [str(text).strip() for text in texts]
    way.nfe += sampled.nfe
    way.calls += sampled.calls


def summary(arguments: argparse.Namespace, asked: Sequence[tuple[str, str]], ways: dict[str, Way]) -> dict[str, Any]:
    """Ratios of the ways, and what each took."""
    from kinject.evaluation.measures import exact_match

    published, fast = ways["published"], ways["fast"]
    differing = [
        {"question": question, "published": slow, "fast": quick}
        for (question, _), slow, quick in zip(asked, published.answers, fast.answers, strict=True)
        if slow != quick
    ]
    details = {
        name: {
            "seconds": way.seconds,
            "nfe": sum(way.nfe) / len(way.nfe),
            "calls": way.calls,
            "exact_match": sum(
                exact_match(given, expected) for given, (_, expected) in zip(way.answers, asked, strict=True)
            )
            / len(asked),
            "sampling": asdict(way.config),
            "model": way.loaded.name,
        }
        for name, way in ways.items()
    }
    ratios = {
        "wall": published.seconds / fast.seconds,
        "nfe": sum(published.nfe) / sum(fast.nfe),
        "same_answers": 1 - len(differing) / len(asked),
    }
    if "block" in ways:
        for name, other in (("", published), ("_to_fast", fast)):
            ratios[f"block_wall{name}"] = other.seconds / ways["block"].seconds
            ratios[f"block_nfe{name}"] = sum(other.nfe) / sum(ways["block"].nfe)
    return {
        "ratios": ratios,
        **details,
        "questions": len(asked),
        "batch_size": arguments.batch_size,
        "model": Path(arguments.model).name,
        "documents": arguments.documents,
        **environment(),
        "differing": differing,
    }


def show(report: dict[str, Any]) -> None:
    """Print ``report`` as a table."""
    print(f"\n{'':12}{'seconds':>10}{'nfe':>10}{'calls':>10}{'exact':>10}")
    for name in ("published", "fast", "block"):
        if name in report:
            way = report[name]
            print(f"{name:12}{way['seconds']:10.2f}{way['nfe']:10.2f}{way['calls']:10d}{way['exact_match']:10.2f}")
    ratios = report["ratios"]
    print(f"{'ratio':12}{ratios['wall']:9.1f}x{ratios['nfe']:9.1f}x   same answers {ratios['same_answers']:.1%}")
    if "block_wall" in ratios:
        print(f"{'block':12}{ratios['block_wall']:9.1f}x{ratios['block_nfe']:9.1f}x   to published")
        print(f"{'':12}{ratios['block_wall_to_fast']:9.2f}x{ratios['block_nfe_to_fast']:9.2f}x   to fast")


if __name__ == "__main__":
    main()
