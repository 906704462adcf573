"""Plain or masked fine-tuning on questions with answers, or on texts, for the benchmarks of Tables 3 and 4.

    accelerate launch recipes/sft.py masked --config recipes/sft/gsm8k.yaml --model_name_or_path Qwen/Qwen3-4B-Instruct-2507
    accelerate launch recipes/sft.py ar --config recipes/sft/gsm8k.yaml --model_name_or_path Qwen/Qwen3-4B-Instruct-2507

The question stays visible; `masked` masks the answer in a copy and scores the hidden tokens (`loss_on: masked`). The model is
evaluated by lm-eval; the command is printed at the end. `--rows` is a Hub data set (`user/name`, `user/name:config`)
or a file (json, jsonl, csv, tsv, parquet, xlsx). Its rows are chats (`messages`, or `conversations` as ShareGPT has them),
`prompt` and `completion`, `question` and `answer`, or `instruction`, `input` and `output`; other names are given by
`--prompt_field` and `--completion_field`, and `--text_field` makes the rows documents.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.commands.options import field_options, find_objective, trainer_options
from kinject.commands.output_dir import clear_output_dir, prepare_output_dir
from kinject.commands.recipe import build
from kinject.commands.settings import check_files, default_output_dir, read_settings
from kinject.errors import ConfigurationError, DataError, exit_on_user_error

if TYPE_CHECKING:
    import datasets


@dataclass
class RowArguments:
    """The rows to learn, and the benchmark they are for."""

    rows: str = field(default="", metadata={"help": "Hub data set (user/name or user/name:config) or a file."})
    split: str = field(default="train", metadata={"help": "Split of the data set."})
    prompt_field: str | None = field(
        default=None, metadata={"help": "Field with the question. Default: that of the known forms."}
    )
    completion_field: str | None = field(
        default=None, metadata={"help": "Field with the answer. Default: that of the known forms."}
    )
    text_field: str | None = field(default=None, metadata={"help": "Field with a document, for rows that hold one."})
    tasks: str = field(default="", metadata={"help": "lm-eval tasks for the command that is printed at the end."})
    overwrite: bool = field(default=False, metadata={"help": "Replace an earlier run in output_dir."})


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
    chosen = find_objective(objective)
    defaults = {**chosen.settings, **({"loss_on": "masked"} if objective == "masked" else {})}
    settings = read_settings(
        arguments, {**field_options(RowArguments), **trainer_options(objective)}, defaults
    ).settings
    row_args = build(RowArguments, settings)
    settings.setdefault("output_dir", default_output_dir(f"sft-{objective}", row_args.rows))
    check_files(settings)
    output_dir = prepare_output_dir(settings["output_dir"], overwrite=row_args.overwrite)
    rows = load_rows(row_args)
    from trl import ModelConfig, get_peft_config

    from kinject.commands.inject import load_for_training

    training_args, model_args = build(chosen.config_class(), settings), build(ModelConfig, settings)
    loaded = load_for_training(model_args, training_args)
    if row_args.overwrite:
        clear_output_dir(output_dir)
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
    """The rows as `messages`, or as `text`; `read_from` names the line of a file.

    Raises:
        ConfigurationError: no rows are named.
        DataError: they cannot be loaded, or lack a field; all faults of a file are named with their lines.
    """
    import datasets

    from kinject.data.records import ROW_KINDS, file_kind, read_records
    from kinject.errors import Faults

    if not arguments.rows:
        raise ConfigurationError("no rows; pass --rows with a Hub data set or a file, or a --config that names one.")
    path = Path(arguments.rows).expanduser()
    if file_kind(path) in ROW_KINDS or path.is_file():
        faults, rows = Faults(), []
        for record in read_records(path, faults):
            with faults:
                if isinstance(record.value, str):
                    raise DataError(f"{record.source}: the row is a string, expected an object with named fields.")
                rows.append({**read_row(record.value, record.source, arguments), "read_from": record.source})
        faults.raise_any()
        if not rows:
            raise DataError(f"{path}: the file holds no row; add one with a question and its answer.")
        return datasets.Dataset.from_list(rows)
    name, _, config = arguments.rows.partition(":")
    try:
        loaded = datasets.load_dataset(name, config or None, split=arguments.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{arguments.rows}: cannot be loaded ({str(error).splitlines()[0]}).") from error
    return loaded.map(
        lambda row, index: read_row(row, f"{arguments.rows} row {index + 1}", arguments),
        with_indices=True,
        remove_columns=loaded.column_names,
    )


def read_row(row: Mapping[str, Any], where: str, arguments: RowArguments) -> dict[str, Any]:
    """One row as `messages`, or as `text`.

    Raises:
        DataError: it lacks a field, or holds what cannot be learned; the message begins with ``where``.
    """
    from kinject.data.rows import conversation_of, with_known_names

    named = arguments.prompt_field or "question", arguments.completion_field or "answer"
    wanted = (arguments.text_field,) if arguments.text_field else named
    row = with_known_names(row, wanted, where)
    missing = [name for name in wanted if name not in row]
    given = arguments.text_field or arguments.prompt_field or arguments.completion_field
    messages = None
    if arguments.text_field and not missing:
        text = row[arguments.text_field]
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{where}: '{arguments.text_field}' is no text, or an empty one; write it, or delete the row."
            )
        return {"text": text}
    if given and not missing:
        messages = conversation_of({name: row[name] for name in named}, where, *named)
    elif not given:
        messages = conversation_of(row, where) or conversation_of(row, where, *named)
    if messages is None:
        raise DataError(
            f"{where}: no field '{(missing or wanted)[0]}'; it has {', '.join(row)}. Name the right one with --prompt_field, "
            "--completion_field or --text_field."
        )
    return {"messages": messages}


if __name__ == "__main__":
    main()
