"""Plain or masked fine-tuning on questions with answers, or on texts, for the benchmarks of Tables 3 and 4.

    accelerate launch recipes/sft.py masked --config recipes/sft/gsm8k.yaml --model_name_or_path Qwen/Qwen3-4B-Instruct-2507
    accelerate launch recipes/sft.py ar --config recipes/sft/gsm8k.yaml --model_name_or_path Qwen/Qwen3-4B-Instruct-2507

The question stays visible; `masked` masks the answer in a copy and scores what is hidden there (`loss_on: masked`). What was
trained is asked by lm-eval; the command is printed at the end. `--rows` is a Hub data set (`user/name`, `user/name:config`)
or a file; rows have `--prompt_field` and `--completion_field`, or with `--text_field` a document.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kinject.errors import ConfigurationError, DataError, exit_on_user_error

if TYPE_CHECKING:
    import datasets


@dataclass
class RowArguments:
    """The rows to learn, and the benchmark they are for."""

    rows: str = field(default="", metadata={"help": "Hub data set (user/name or user/name:config) or a file."})
    split: str = field(default="train", metadata={"help": "Its split."})
    prompt_field: str = field(default="question", metadata={"help": "Field of a row that holds the question."})
    completion_field: str = field(default="answer", metadata={"help": "Field that holds the answer."})
    text_field: str | None = field(default=None, metadata={"help": "Field that holds a document, instead of the two."})
    tasks: str = field(default="", metadata={"help": "lm-eval tasks to ask afterwards, for the printed command."})


def main(argv: Sequence[str] | None = None) -> None:
    """Train the objective that the first argument names."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    with exit_on_user_error():
        train(arguments[0], arguments[1:])


def train(objective: str, arguments: Sequence[str]) -> None:
    """Parse, load, train and save.

    Raises:
        ConfigurationError: an objective other than ar and masked, or a setting or model that cannot be used.
        DataError: rows that cannot be used.
    """
    if objective not in ("ar", "masked"):
        raise ConfigurationError(f"objective '{objective}': expected ar or masked, as in: recipes/sft.py masked ...")
    from trl import ModelConfig, get_peft_config

    from kinject.injection import load_for_training, prepare_output_dir
    from kinject.objectives import find_objective
    from kinject.recipe import parse

    chosen = find_objective(objective)
    defaults = {**chosen.settings, **({"loss_on": "masked"} if objective == "masked" else {})}
    row_args, training_args, model_args = parse((RowArguments, chosen.config_class(), ModelConfig), arguments, defaults)
    output_dir = prepare_output_dir(training_args.output_dir)
    rows = load_rows(row_args)
    loaded = load_for_training(model_args, training_args)
    trainer = chosen.trainer_class()(
        loaded.model,
        training_args,
        train_dataset=rows,
        processing_class=loaded.tokenizer,
        peft_config=get_peft_config(model_args),
    )
    trainer.train()
    trainer.save_model(str(output_dir))
    if trainer.accelerator.is_main_process and row_args.tasks:
        model = f"pretrained={training_args.output_dir}"
        print(f"lm_eval run --model hf --model_args {model} --apply_chat_template --tasks {row_args.tasks}")


def load_rows(arguments: RowArguments) -> datasets.Dataset:
    """The rows as `prompt` and `completion`, or as `text`.

    Raises:
        ConfigurationError: no rows are named.
        DataError: they cannot be loaded, or lack a field.
    """
    import datasets

    if not arguments.rows:
        raise ConfigurationError("no rows; pass --rows with a Hub data set or a file, or a --config that names one.")
    kinds = {"json": "json", "jsonl": "json", "csv": "csv", "parquet": "parquet"}
    kind = kinds.get(arguments.rows.rpartition(".")[2])
    name, _, config = arguments.rows.partition(":")
    try:
        if kind:
            loaded = datasets.load_dataset(kind, data_files=arguments.rows, split="train")
        else:
            loaded = datasets.load_dataset(name, config or None, split=arguments.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{arguments.rows}: cannot be loaded ({str(error).splitlines()[0]}).") from error
    if arguments.text_field:
        wanted = {arguments.text_field: "text"}
    else:
        wanted = {arguments.prompt_field: "prompt", arguments.completion_field: "completion"}
    missing = [name for name in wanted if name not in loaded.column_names]
    if missing:
        raise DataError(
            f"{arguments.rows}: no field '{missing[0]}'; it has {', '.join(loaded.column_names)}. Name the right one with "
            "--prompt_field, --completion_field or --text_field."
        )
    return loaded.select_columns(list(wanted)).rename_columns(wanted)


if __name__ == "__main__":
    main()
