"""The `kinject` command: inject documents, ask, evaluate, and compare runs.

Each command has one function, which passes its arguments on: what a command does stands in `kinject.commands`. Only argparse
is imported until a command runs, so that help answers at once.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from kinject import __version__
from kinject.commands import recipe
from kinject.commands.options import (
    OBJECTIVES,
    PRESETS,
    all_training_options,
)
from kinject.commands.settings import check_range, split_objective
from kinject.compat import is_first_process, quiet_libraries
from kinject.errors import ConfigurationError, did_you_mean, exit_on_user_error
from kinject.models.names import require_model
from kinject.reproduction.command import DESCRIPTION, add_arguments
from kinject.reproduction.command import run as reproduce_tables

_MODEL_HELP = "directory or Hub id of a model or adapter, or smollm2-135m"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; errors that the user can mend end it with status 2 and one line."""
    words = list(sys.argv[1:] if argv is None else argv)
    quiet_libraries()
    parser = build_parser()
    # These two take every option of a recipe, read from the sources of its classes instead of declared to argparse.
    reading = {"inject": run_inject, "doctor": run_doctor}.get(words[0] if words else "")
    with exit_on_user_error():
        if reading is not None and (words[0] == "inject" or not {"-h", "--help"} & set(words)):
            reading(words[1:])
            return
        arguments, others = parser.parse_known_args(_model_first(parser, words))
        if others:
            hint = did_you_mean(others[0].partition("=")[0], arguments.options)
            parser.error(f"unrecognized arguments: {' '.join(others)}{hint}")
        for name, value in vars(arguments).items():
            check_range(name, value)
        arguments.run(arguments)


_PATHS = (
    *("documents", "questions", "file", "config", "model", "model_name_or_path", "adapters", "runs", "directory"),
    *("output", "output_dir", "output_file", "plot", "keep", "keep_questions", "baselines", "resume_from_checkpoint"),
)  # arguments that name a file or folder


class Parser(argparse.ArgumentParser):
    """An argparse parser that knows its own arguments, by name, and its commands."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """As the library's."""
        self.arguments: dict[str, argparse.Action] = {}
        self.commands: dict[str, Parser] = {}
        super().__init__(*args, **options)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """As the library's."""
        argument = super().add_argument(*names, **options)
        self.arguments[argument.dest] = argument
        return argument


def _model_first(parser: argparse.ArgumentParser, words: list[str]) -> list[str]:
    """``words`` of `ask` and `eval` with the model that `--model` names in front, where the parser expects it."""
    if words[:1] not in (["ask"], ["eval"]):
        return words
    command, *pending = words
    models: list[str] = []
    others: list[str] = []
    while pending:
        word = pending.pop(0)
        start, equals, value = word.partition("=")
        if start not in ("--model", "--model_name_or_path", "--model-name-or-path"):
            others.append(word)
        elif equals or pending:
            models.append(value if equals else pending.pop(0))
        else:
            parser.error(f"{start} expects a value")
    if len(set(models)) > 1:
        parser.error(f"{models[0]} and {models[1]} are both named as --model; name one")
    words = [command, *models[:1], *others]
    return [*words, "-"] if command == "ask" and _names_only_a_model(words[1:]) else words


def _names_only_a_model(words: Sequence[str]) -> bool:
    """Whether ``words`` of `ask` hold no question, so that questions are read from a file or standard input."""
    valued = ("--file", "--revision", "--system_prompt", "--max_new_tokens")
    alone = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if not word.startswith("-") and before not in valued
    ]
    return len(alone) == 1 and not {"-", "-h", "--help"} & set(words)


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="kinject",
        description="Teach a language model new documents by masked fine-tuning, and ask about them from any side.",
    )
    parser.add_argument("--version", action="version", version=f"kinject {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    add = partial(commands.add_parser, allow_abbrev=False)

    add("inject", help="train a model on documents")  # run_inject reads its options

    look = add(
        "preview",
        help="show what would be learned of documents",
        description="Show what would be learned: documents, pieces, tokens, entities, a masked sample, and what is skipped.",
    )
    make = add(
        "questions",
        help="make questions about documents by rule",
        description="Make forward and backward questions from documents that have none: by rule, without any model, or by "
        "--writer. They are marked as made by machine wherever they are used.",
    )
    for each in (look, make):
        each.add_argument("documents", nargs="+", help="files, folders, patterns, a Hub data set or a fictional world")
        for what in ("text", "title"):
            each.add_argument(f"--{what}_field", default=what, help=f"field of a row that holds it (default: {what})")
    look.add_argument("--questions", help="file of questions about them")
    look.add_argument("--model", help="count the tokens of this model (default: an estimate from words)")
    look.add_argument("--max_length", type=int, default=1024, help="longest sample in tokens (default: 1024)")
    look.add_argument("--json", action="store_true", help="print all of it as JSON")
    look.set_defaults(run=run_preview)
    make.add_argument("--output_file", metavar="JSONL", help="where they go (default: they are printed)")
    make.add_argument("--count", type=int, help="how many at most, spread over the documents (default: all)")
    make.add_argument(
        "--writer",
        metavar="MODEL",
        help="a language model that writes them instead: a directory, a Hub id, or smollm2-135m",
    )
    make.add_argument(
        "--writer_url", metavar="URL", help="OpenAI-compatible address of --writer, such as http://localhost:8000/v1"
    )
    make.add_argument(
        "--model", help="base model, which has to answer each with the document in view (default: --writer itself)"
    )
    make.add_argument("--overwrite", action="store_true", help="replace the file that is there")
    make.set_defaults(run=run_questions)

    bench = add(
        "benchmark",
        help="write documents and questions as a benchmark",
        description="Write documents with their questions, such as a fictional world, as a data set that the Hub can "
        "register as a benchmark: documents, questions, card and eval.yaml.",
    )
    bench.add_argument("documents", help="a fictional world, or documents with questions")
    bench.add_argument("--questions", help="file of questions about them")
    bench.add_argument("--size", type=int, help="number of people of a fictional world")
    bench.add_argument("--world_seed", type=int, default=0, help="seed of a fictional world (default: 0)")
    bench.add_argument("--output_dir", required=True, metavar="DIR", help="a new directory")
    bench.set_defaults(run=run_benchmark)

    ask = add("ask", help="ask a trained model", description="Ask a trained model or adapter.")
    ask.add_argument("model", help=f"{_MODEL_HELP}; also as --model MODEL")
    ask.add_argument(
        "questions", nargs="+", metavar="QUESTION", help="default: one a line from --file or standard input"
    )
    ask.add_argument("--file", metavar="TXT", help="file with one question a line; - is standard input")
    ask.add_argument("--revision", help="branch, tag or commit of a Hub repository")
    ask.add_argument("--base", action="store_true", help="also show the answers of the model before training")
    ask.add_argument("--system_prompt", help="system message; default: the chat template's own")
    ask.add_argument("--max_new_tokens", type=int, default=128, help="longest answer in tokens (default: 128)")
    ask.add_argument("--json", action="store_true", help="print questions and answers as JSON, and nothing else")
    ask.add_argument("--show", action="store_true", help="draw how a masked diffusion model fills in its answers")
    ask.set_defaults(run=run_ask)

    chat = add(
        "chat",
        help="talk with a trained model",
        description="Talk with a trained model in the terminal, over several turns. /base shows the model it came from beside "
        "it, /new begins a new conversation, /quit ends.",
    )
    chat.add_argument("--base", action="store_true", help="begin with the model before training beside it")
    chat.add_argument("--system_prompt", help="system message; default: the chat template's own")
    chat.set_defaults(run=run_chat)

    app = add(
        "app",
        help="try a trained model on a page in the browser",
        description="Serve a page on which a trained model answers beside the model it came from, with the documents that hold "
        "the answer; of a masked diffusion model, how it unmasks. Needs pip install 'kinject[app]'.",
    )
    for each in (chat, app):
        each.add_argument("model", help=_MODEL_HELP)
        each.add_argument("--revision", help="branch, tag or commit of a Hub repository")
        each.add_argument("--max_new_tokens", type=int, default=128, help="longest answer in tokens (default: 128)")
    app.add_argument("--no_base", action="store_true", help="without the model before training, which takes memory too")
    app.add_argument("--host", default="127.0.0.1", help="address to serve at (default: 127.0.0.1, this machine alone)")
    app.add_argument("--port", type=int, help="port (default: the first free one from 7860 on)")
    app.add_argument("--share", action="store_true", help="also make a public address, through gradio's servers")
    app.set_defaults(run=run_app)

    evaluate = add(
        "eval",
        help="score a trained model on questions",
        description="Score a trained model on questions, and compare with what its eval card claims. Without --questions "
        "and --documents, those that the card is about are asked again.",
    )
    evaluate.add_argument("model_name_or_path", metavar="model", help=f"{_MODEL_HELP}; also as --model MODEL")
    evaluate.add_argument("--revision", help="branch, tag or commit of a Hub repository")
    evaluate.add_argument("--questions", help="file of questions (json, jsonl, csv, tsv, parquet, xlsx)")
    evaluate.add_argument(
        "--documents", nargs="+", help="documents they are about, where the questions do not give a direction"
    )
    for what in ("text", "question", "answer"):
        evaluate.add_argument(f"--{what}_field", default=what, help=f"field of a row that holds it (default: {what})")
    evaluate.add_argument("--facts", help="only these documents and their questions, as in '0-9,30-39'")
    evaluate.add_argument("--output_dir", help="write results.json and report.html here as well")
    evaluate.add_argument(
        "--overwrite", action="store_true", help="replace the results.json and report.html in output_dir"
    )
    evaluate.add_argument("--batch_size", type=int, help="questions answered at once (default: 32; 256 on a GPU)")
    evaluate.add_argument("--max_new_tokens", type=int, default=128, help="longest answer in tokens (default: 128)")
    evaluate.add_argument("--sampling", default="fast", help="diffusion models: fast or published (default: fast)")
    evaluate.add_argument("--sampling_steps", type=int, help="steps for an answer (default: one for each token)")
    evaluate.add_argument("--block_length", type=int, help="tokens of a block (default: the model's own, else 4)")
    evaluate.add_argument(
        "--retention", action="store_true", help="also measure forgetting, and refusals with --documents"
    )
    evaluate.add_argument("--retention_questions", type=int, default=1000, help="general questions (default: 1000)")
    evaluate.add_argument(
        "--unseen", type=int, help="questions each way about unseen people (default: 200 with --retention)"
    )
    evaluate.add_argument("--unknown_samples", type=int, default=0, help="tries of every question at temperature 1")
    evaluate.add_argument("--open_book", action="store_true", help="also ask with the document in the prompt")
    evaluate.add_argument("--other_wordings", action="store_true", help="also ask in other words")
    evaluate.add_argument("--json", action="store_true", help="print nothing but the results, as one JSON document")
    evaluate.set_defaults(run=run_eval)

    compare = add(
        "compare",
        help="compare the eval cards of published models",
        description="Print one table of what the eval cards of several models claim, and plot accuracy over steps.",
    )
    compare.add_argument("models", nargs="+", metavar="MODEL", help="Hub repository, or output_dir of a run")
    compare.add_argument(
        "--plot", metavar="PNG", default="comparison.png", help="where the plot goes (default: comparison.png)"
    )
    compare.set_defaults(run=run_compare)

    push = add(
        "push",
        help="publish a trained directory",
        description="Publish a trained directory on the Hub, with its card: adapter or model, tokenizer, results; never "
        "checkpoints, optimizer states, tokens or local paths. The same command resumes a push that failed, and uploads "
        "only what is missing.",
    )
    push.add_argument("directory", metavar="DIR", help="output_dir of a run, or a saved model or adapter")
    push.add_argument("repository", metavar="user/repo", help="repository; created if need be")
    push.add_argument("--private", action="store_true", help="create it private; refuse one that is public")
    push.add_argument("--merge", action="store_true", help="publish a whole model: the adapter merged into its base")
    push.add_argument(
        "--layout", default="native", help="names of a diffusion model's weights: native, llada, sdar or llada2"
    )
    push.add_argument("--base", metavar="user/base", help="Hub id of the base, if trained on a local copy of it")
    push.add_argument("--include_documents", action="store_true", help="publish questions and answers, too")
    push.add_argument("--revision", help="a branch other than main; created if need be")
    push.add_argument("--space", action="store_true", help="also push the page of kinject app as a Space of that name")
    push.add_argument(
        "--benchmark", metavar="user/data", help="data set whose tasks the scores in .eval_results are of"
    )
    push.set_defaults(run=run_push)

    export = add(
        "export",
        help="write a whole model for other programs",
        description="Write a whole model to a directory, for transformers, vLLM, SGLang, llama.cpp or Ollama "
        "(docs/serving.md): the adapter merged, the tokenizer with the frame of training, a Modelfile. It is asked the card's "
        "questions before and after, and is written only where the answers agree.",
    )
    export.add_argument("model", help=_MODEL_HELP)
    export.add_argument(
        "--output_dir", required=True, help="where it goes: a directory that is not there yet, or empty"
    )
    export.add_argument(
        "--layout", default="native", help="names of a diffusion model's weights: native, llada, sdar or llada2"
    )
    export.add_argument("--batch_size", type=int, default=32, help="questions asked at once (default: 32)")
    export.set_defaults(run=run_export)

    joining = add(
        "merge",
        help="merge the adapters of several runs",
        description="Merge LoRA adapters on one base into one, or list them. What each run taught is asked again of "
        "the merged adapter; parts can be removed, also of a directory that was merged before, which keeps its parts.",
    )
    joining.add_argument("adapters", nargs="+", metavar="ADAPTER", help="output_dir of a run, or a merged directory")
    joining.add_argument("--output_dir", help="where the merged adapter goes (default: nowhere, they are listed)")
    joining.add_argument(
        "--remove", nargs="+", default=[], metavar="NAME", help="adapters to leave out, by their directory's name"
    )
    joining.add_argument("--weights", nargs="+", type=float, help="how much each adapter counts (default: 1 each)")
    joining.add_argument(
        "--combination", default="cat", help="cat (exact; ranks add up), svd, linear or ties (default: cat)"
    )
    joining.add_argument("--batch_size", type=int, default=32, help="questions asked at once (default: 32)")
    joining.set_defaults(run=run_merge)

    table = add(
        "table", help="compare runs in one table", description="Print one table of several runs, before and after."
    )
    table.add_argument("runs", nargs="+", metavar="RUN", help="output_dir of a run, or its results.json")
    table.add_argument("--answers", type=int, default=3, help="answers of each run to print (default: 3)")
    table.add_argument("--plot", metavar="PNG", help="also plot accuracy over steps")
    table.add_argument("--json", action="store_true", help="print nothing but the runs' results, as a JSON list")
    table.set_defaults(run=run_table)

    report = add(
        "report",
        help="a page to look at runs in a browser",
        description="Write one self-contained page of one run or several side by side: scores over time, every question "
        "with its answers before, during and after, the documents, what was forgotten, and in which settings the runs "
        "differ. It is made of results.json alone; a run writes its own as report.html.",
    )
    report.add_argument("runs", nargs="+", metavar="RUN", help="output_dir of a run, or its results.json")
    report.add_argument(
        "--output", metavar="HTML", help="where it goes (default: report.html, of one run into its folder)"
    )
    report.set_defaults(run=run_report)

    doctor = add(
        "doctor",
        help="check the installation, and a configuration",
        description="Print versions, the device, and what is missing for which feature. With --config or options of a "
        "recipe, as kinject inject takes them, also check whether they could run: settings, packages, documents, "
        "questions, model, output_dir. Nothing is trained, downloaded or written; status 2 if something would stop the run.",
    )
    doctor.add_argument("documents", nargs="*", help="what would be learned")
    doctor.add_argument("--model", help=_MODEL_HELP)
    doctor.add_argument("--objective", default="masked", help=f"one of {', '.join(OBJECTIVES)} (default: masked)")
    doctor.add_argument("--config", metavar="FILE", help="YAML file of settings, as for kinject inject")

    completion = add(
        "completion",
        help="completion of commands and options by the shell",
        description="Print what makes a shell complete kinject's commands, options and their values. For bash: kinject "
        "completion bash > ~/.local/share/bash-completion/completions/kinject; for zsh: into a file _kinject in $fpath.",
    )
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"])
    completion.set_defaults(run=run_completion)

    reproduce = add("reproduce", help="reproduce a table of the paper", description=DESCRIPTION)
    add_arguments(reproduce)
    reproduce.set_defaults(run=reproduce_tables)
    for each in commands.choices.values():
        each.set_defaults(options=re.findall(r"--\w+", each.format_usage()))
    parser.commands = commands.choices
    return parser


def run_inject(words: Sequence[str]) -> None:
    """`kinject inject`: the recipe of an objective, with the common options up front."""
    modes = ("--quiet", "--json")
    chosen = [mode for mode in modes if mode in words]
    left = [word for word in words if word not in modes]
    if not chosen or recipe.asks_for_help(left):
        recipe.inject_words(left)
        return
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")  # read where the libraries load
    with redirect_stdout(io.StringIO()):
        found = recipe.inject_words(left)
    if found is None or not is_first_process():
        return
    from kinject.evaluation.report import verdict
    from kinject.evaluation.results import as_json

    if "--json" in chosen:
        print(as_json(found))
    elif "after" in found:
        print(verdict(found))


def run_preview(arguments: argparse.Namespace) -> None:
    """`kinject preview`: what would be learned."""
    from kinject.commands.doctor import preview, print_preview
    from kinject.data import load_knowledge

    if arguments.max_length < 2:
        raise ConfigurationError(f"max_length is {arguments.max_length}; expected 2 or more.")
    if arguments.model is not None:
        require_model(arguments.model, weights=False)
    knowledge = load_knowledge(
        arguments.documents, arguments.questions, text_field=arguments.text_field, title_field=arguments.title_field
    )
    shown = preview(knowledge, arguments.model, arguments.max_length)
    if arguments.json:
        print(json.dumps(shown, ensure_ascii=False, indent=1))
    else:
        print_preview(shown, arguments.max_length)


def run_questions(arguments: argparse.Namespace) -> None:
    """`kinject questions`: questions by rule, or by a model."""
    from kinject.commands.doctor import ask_writer, kept_replies, require_new_file, write_questions
    from kinject.data import load_knowledge
    from kinject.data.knowledge import direction_counts
    from kinject.data.made_questions import make_questions

    if arguments.count is not None and arguments.count < 1:
        raise ConfigurationError(f"count is {arguments.count}; expected 1 or more.")
    for name in ("writer_url", "model"):
        if getattr(arguments, name) is not None and arguments.writer is None:
            raise ConfigurationError(f"--{name} is about questions that a model writes: name it with --writer.")
    if arguments.writer_url is not None and arguments.model is None:
        raise ConfigurationError(
            "--writer_url needs a --model as well: the base model, which has to answer each question with the document in view."
        )
    if arguments.writer_url is not None and not arguments.writer_url.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"--writer_url {arguments.writer_url}: expected an address such as http://localhost:8000/v1"
        )
    for model in (arguments.model, None if arguments.writer_url else arguments.writer):
        if model is not None:
            require_model(model)
    if arguments.output_file is not None:  # before a model writes for minutes
        require_new_file(arguments.output_file, arguments.overwrite)
    knowledge = load_knowledge(arguments.documents, text_field=arguments.text_field, title_field=arguments.title_field)
    if arguments.writer is None:
        questions = make_questions(knowledge.documents, arguments.count)
    else:
        written = ask_writer(knowledge.documents, arguments)
        print(written.summary(), file=sys.stderr)
        questions = written.questions
    text = write_questions(questions, arguments.output_file, overwrite=arguments.overwrite)
    if arguments.output_file is None:
        print(text, end="")
        return
    kept_replies(arguments.output_file).unlink(missing_ok=True)
    counts = direction_counts(questions)
    print(
        f"{arguments.output_file}: {counts['forward']} forward and {counts['backward']} backward questions, "
        f"made by {arguments.writer or 'rule'}"
    )
    if len(arguments.documents) == 1:
        print(f"next: kinject inject {arguments.documents[0]} --questions {arguments.output_file}")


def run_benchmark(arguments: argparse.Namespace) -> None:
    """`kinject benchmark`: documents and questions as a data set with an `eval.yaml`."""
    from kinject.data import load_knowledge

    world = {"size": arguments.size, "seed": arguments.world_seed}
    knowledge = load_knowledge(arguments.documents, arguments.questions, **world)
    from kinject.hub.card_metadata import write_benchmark

    files = write_benchmark(knowledge, Path(arguments.output_dir))
    print(f"{arguments.output_dir} holds {', '.join(files)}")
    print(f"next: hf upload --repo-type dataset user/name {arguments.output_dir}")


def run_ask(arguments: argparse.Namespace) -> None:
    """`kinject ask`: answers of a trained model, beside the base model's if asked."""
    from kinject.commands.talk import answers_of, base_of, print_answers, typed_questions

    if arguments.json and arguments.show:
        raise ConfigurationError("--show draws, and --json prints nothing but JSON; leave one of them out.")
    questions = typed_questions(arguments.questions, arguments.file)
    models = {"answer": (arguments.model, arguments.revision)}
    if arguments.base:
        models = {"before": (base_of(arguments.model), None), "after": (arguments.model, arguments.revision)}
    for name, revision in models.values():
        require_model(name, revision=revision)
    given = ("max_new_tokens", "system_prompt", "show")
    answers = answers_of(models, questions, **{name: getattr(arguments, name) for name in given})
    print_answers(questions, answers, as_json=arguments.json)


def run_chat(arguments: argparse.Namespace) -> None:
    """`kinject chat`: several turns with a trained model."""
    require_model(arguments.model, revision=arguments.revision)
    from kinject.commands.talk import Conversation, base_of, converse, terminal_lines
    from kinject.models.loading import load

    conversation = Conversation(
        load(arguments.model, revision=arguments.revision),
        lambda: load(base_of(arguments.model)),
        arguments.max_new_tokens,
        arguments.system_prompt,
        arguments.base,
    )
    converse(conversation, terminal_lines(), print)


def run_app(arguments: argparse.Namespace) -> None:
    """`kinject app`: a page in the browser to try a model on."""
    require_model(arguments.model, revision=arguments.revision)
    from kinject.commands.talk import base_of, serve_model
    from kinject.models.loading import load

    base = None
    if not arguments.no_base:
        try:
            base = base_of(arguments.model)
        except ConfigurationError as error:
            print(f"note: without the model before training ({error})")
    given = ("revision", "host", "port", "share", "max_new_tokens")
    serve_model(
        arguments.model,
        lambda: None if base is None else load(base),
        **{name: getattr(arguments, name) for name in given},
    )


def run_eval(arguments: argparse.Namespace) -> None:
    """`kinject eval`: scores of a model on questions, in both readings."""
    from kinject.commands.evaluate import MeasurementArguments, evaluate_model

    names = {item.name for item in fields(MeasurementArguments)}
    measured = MeasurementArguments(**{key: value for key, value in vars(arguments).items() if key in names})
    if not arguments.json:
        evaluate_model(measured)
        return
    from kinject.evaluation.results import as_json

    with redirect_stdout(io.StringIO()):
        results = evaluate_model(measured)
    print(as_json(results))


def run_compare(arguments: argparse.Namespace) -> None:
    """`kinject compare`: eval cards side by side."""
    from kinject.commands.evaluate import compare

    print(compare(arguments.models, arguments.plot))
    print(f"accuracy over steps: {arguments.plot}")


def run_push(arguments: argparse.Namespace) -> None:
    """`kinject push`: a directory onto the Hub."""
    from kinject.hub.publishing import push, push_space

    given = ("private", "merge", "layout", "base", "include_documents", "benchmark", "revision", "space")
    pushed = push(arguments.directory, arguments.repository, **{name: getattr(arguments, name) for name in given})
    print(f"{pushed.url} holds {', '.join(pushed.files)}")
    notes = pushed.notes
    if arguments.space:
        space = push_space(arguments.repository, private=arguments.private)
        print(f"{space.url} shows it")
        notes += space.notes
    for note in notes:
        print(f"note: {note}")


def run_export(arguments: argparse.Namespace) -> None:
    """`kinject export`: a whole model on disk, for others to serve."""
    from kinject.commands.export import export

    done = export(arguments.model, arguments.output_dir, layout=arguments.layout, batch_size=arguments.batch_size)
    print(f"{done.directory} holds {', '.join(done.files)}")
    print(f"{done.asked - len(done.changed)} of {done.asked} answers are those of before")
    for question, before, after in done.changed:
        print(f"  {question!r}: {before!r}, now {after!r}")
    for note in done.notes:
        print(f"note: {note}")


def run_merge(arguments: argparse.Namespace) -> None:
    """`kinject merge`: adapters of several runs as one."""
    from kinject.commands.merging import listing, merge

    given = ("output_dir", "remove", "weights", "combination", "batch_size")
    merged = merge(arguments.adapters, **{name: getattr(arguments, name) for name in given})
    print(listing(merged))
    if merged.directory is not None:
        print(f"{merged.directory} holds {' + '.join(part.name for part in merged.parts)}")


def run_table(arguments: argparse.Namespace) -> None:
    """`kinject table`: runs side by side."""
    from kinject.evaluation.report import plot_history, print_answers, results_table
    from kinject.evaluation.results import as_json, read_results

    results = [read_results(results_path(run)) for run in arguments.runs]
    if arguments.json:
        print(f"[{', '.join(as_json(each) for each in results)}]")
    else:
        print(results_table(results))
        for result in results:
            print(f"\nAnswers after {result['objective']}:")
            print_answers(result.get("answers", []), arguments.answers)
    if arguments.plot:
        plot_history(results, arguments.plot)


def run_report(arguments: argparse.Namespace) -> None:
    """`kinject report`: runs as a page."""
    from kinject.evaluation.page import write_page
    from kinject.evaluation.results import read_results

    paths = [results_path(run) for run in arguments.runs]
    folder = paths[0].parent if len(paths) == 1 else Path()
    print(write_page([read_results(path) for path in paths], arguments.output or folder / "report.html"))


def run_doctor(words: Sequence[str]) -> None:
    """`kinject doctor`: what is there, what is missing, and whether a configuration could run."""
    objective, options = split_objective(words)
    from kinject.commands.doctor import examine, report

    findings = examine(objective, options)
    print(report(findings))
    if any(finding.state == "error" for finding in findings):
        sys.exit(2)


def run_completion(arguments: argparse.Namespace) -> None:
    """`kinject completion`: what makes a shell complete the command line."""
    import shtab

    parser = build_parser()
    known = {name: option.choices or option.members for name, option in all_training_options().items()}
    known |= {
        "objective": tuple(OBJECTIVES),
        "preset": PRESETS,
        "config": (),
        "quiet": (),
        "json": (),
        "all_options": (),
    }
    for command in (
        parser.commands[name] for name in ("inject", "doctor")
    ):  # which read the options of a recipe themselves
        for name, choices in known.items():
            if name not in command.arguments:
                command.add_argument(f"--{name}" if name != "documents" else name)
            command.arguments[name].choices = choices or None
    for command in parser.commands.values():
        for name, argument in command.arguments.items():
            if name in _PATHS:
                argument.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, arguments.shell))


def results_path(run: str) -> Path:
    """The `results.json` that ``run`` names: itself, or the one in its directory."""
    path = Path(run)
    return path if path.is_file() else path / "results.json"


if __name__ == "__main__":
    main()
