"""Runs a recipe from its words: help, settings, the checks that need no heavy import, and then the run itself.

`kinject.commands.settings` reads the words, `kinject.commands.inject` trains; neither is done here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.commands.options import (
    evaluate_help,
    field_options,
    find_objective,
    measured_settings,
    recipe_help,
)
from kinject.commands.output_dir import prepare_output_dir, resumes
from kinject.commands.settings import (
    MODEL,
    check_files,
    default_output_dir,
    read_settings,
    read_training,
    split_objective,
    split_preset,
)
from kinject.compat import is_first_process, quiet_libraries, restarted
from kinject.errors import ConfigurationError, KinjectError, exit_on_user_error
from kinject.models.adapters import require_modules
from kinject.models.names import (
    EMBEDDED_MODEL,
    EMBEDDED_PACKAGE,
    adapter_settings,
    require_whole_weights,
    weights_in,
    weights_of,
)

if TYPE_CHECKING:
    from kinject.commands.inject import InjectionArguments

# Options of an adapter, and where its `adapter_config.json` keeps them.
_ADAPTER_FIELDS = {
    **{name: name for name in ("lora_alpha", "lora_dropout", "use_rslora", "use_dora")},
    **{"lora_r": "r", "lora_target_modules": "target_modules", "lora_modules_to_save": "modules_to_save"},
}


def main(objective: str, default_config: Path, argv: Sequence[str] | None = None) -> None:
    """Run a training recipe from the command line; with no argument at all, ``default_config``.

    Errors that the user can mend are printed in one line, and the process ends with status 2.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if asks_for_help(arguments):
        with exit_on_user_error():
            print(recipe_help(objective, all_options="--all_options" in arguments))
        return
    if not arguments:
        print(
            f"No arguments: running the embedded default, --config {default_config.name} of {default_config.parent.name}"
        )
        arguments = ["--config", str(default_config)]
    with exit_on_user_error():
        train(objective, arguments)


def evaluate(argv: Sequence[str] | None = None) -> None:
    """Run the evaluation recipe from the command line; errors as in `main`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        with exit_on_user_error():
            print(evaluate_help())
        return
    with exit_on_user_error():
        from kinject.commands.evaluate import MeasurementArguments, evaluate_model

        (parsed,) = parse((MeasurementArguments,), arguments)
        evaluate_model(parsed)


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether a command line of a training recipe asks for its options, the main ones or all."""
    return bool({"-h", "--help", "--all_options"} & set(arguments))


def inject_words(words: Sequence[str]) -> Mapping[str, Any] | None:
    """Run `kinject inject` with ``words``; the content of `results.json`, or None where only help was asked for.

    Raises:
        KinjectError: what the user can mend.
    """
    preset, words = split_preset(words)
    if asks_for_help(words):
        flags = ("-h", "--help", "--all_options")
        objective, _ = split_objective([word for word in words if word not in flags])
        prog, settings, every = (
            "kinject inject DOCUMENTS",
            measured_settings(objective, preset),
            "--all_options" in words,
        )
        print(recipe_help(objective, prog, settings, all_options=every, other_objectives=True))
        return None
    objective, options = split_objective(words)
    file = options[options.index("--config") + 1] if "--config" in options else None
    if preset is not None and file is not None:
        raise ConfigurationError(
            f"--preset {preset} and --config {file} both say how to train; leave one of them out, and give what differs as "
            "options."
        )
    defaults = measured_settings(objective, preset) if file is None else None
    if file is None or Path(file).is_file():
        given = read_training(objective, options, defaults)
        if "documents" not in given.typed | given.written:
            raise ConfigurationError(
                "no documents; give a file, a folder, a Hub data set or fictional:name_description."
            )
        if (
            defaults is not None
            and MODEL not in given.typed
            and objective != "diffusion"
            and find_spec(EMBEDDED_PACKAGE)
        ):
            print(f"no model is named: taking {EMBEDDED_MODEL}, the embedded default (--model)", flush=True)
            defaults = {**defaults, MODEL: EMBEDDED_MODEL}
    practice = None
    if preset is None and defaults is not None and objective == "masked":
        own = {MODEL: defaults[MODEL]} if MODEL in defaults else {}
        practice = {**measured_settings(objective, "practice"), **own}
    return train(objective, options, defaults, practice)


def train(
    objective: str,
    arguments: Sequence[str],
    defaults: Mapping[str, Any] | None = None,
    practice: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Parse ``arguments`` (command line or `--config`) for ``objective`` and run it.

    Args:
        objective: What to train, by name.
        arguments: Options as typed; words that belong to none are documents.
        defaults: Settings that hold where ``arguments`` say nothing. What these leave open is chosen as well.
        practice: Settings that take the place of ``defaults`` for documents and a model that practice answering.

    Returns:
        The content of `results.json`.

    Raises:
        KinjectError: what the user can mend.
    """
    quiet_libraries()
    given = read_training(objective, arguments, defaults)
    script: InjectionArguments = build(injection_class(), given.settings)
    settings = given.settings
    if not settings.get("output_dir"):
        settings["output_dir"] = default_output_dir(objective, script.documents)
    check_files(settings)
    check_modules({name: settings[name] for name in given.typed | given.written if name in settings}, settings)
    output_dir = (
        None
        if script.plan
        else prepare_output_dir(
            settings["output_dir"],
            overwrite=script.overwrite,
            resume=restarted() or resumes(settings.get("resume_from_checkpoint")),
        )
    )
    if not resumes(settings.get("resume_from_checkpoint")):
        _check_own_model(output_dir, settings.get(MODEL))
    knowledge = script.load_knowledge(settings.get(MODEL))
    if is_first_process() and output_dir is not None:
        print(f"output_dir: {output_dir}", flush=True)
    # Importing torch, transformers and trl takes many seconds: all that can be checked without them was checked above.
    from kinject.commands.inject import go_on_from_adapter, inject
    from kinject.trainers.document_config import objective_name

    trainer_class = find_objective(objective).trainer_class()
    training_args, model_args = _trainer_groups(objective, settings)
    chosen: dict[str, str] = {}
    if defaults is not None:
        from kinject.commands.plan import PRACTICING, choose, practices, shown_choices

        go_on_from_adapter(model_args)
        large_rate = trainer_class.large_learning_rate
        choices = choose(knowledge, script, training_args, model_args, settings, large_rate)
        adapter = bool(model_args.use_peft) or any(each.settings.get("use_peft") for each in choices)
        if practice is not None and practices(knowledge, str(model_args.model_name_or_path), adapter):
            settings = {**read_training(objective, arguments, practice).settings, "output_dir": settings["output_dir"]}
            script = build(injection_class(), settings)
            training_args, model_args = _trainer_groups(objective, settings)
            choices = [PRACTICING, *choose(knowledge, script, training_args, model_args, settings, large_rate)]
        for choice in choices:
            settings |= choice.settings
            chosen |= dict.fromkeys(choice.settings, choice.why)
        training_args, model_args = _trainer_groups(objective, settings)
        if is_first_process():
            print(shown_choices(choices), flush=True)
    name = objective_name(training_args)
    return inject(trainer_class, script, training_args, model_args, name, knowledge=knowledge, chosen=chosen)


def check_modules(explicit: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse names of modules that the model does not have, as far as its files tell, and other options of an own adapter.

    Args:
        explicit: The settings that the user gave.
        settings: All of them.

    Raises:
        ConfigurationError: as `weights_in` and `require_modules`; or an adapter is trained on with other options.
    """
    name, revision = str(settings[MODEL]), settings.get("model_revision")
    adapter = adapter_settings(Path(name))
    if adapter is not None:
        for option, field in _ADAPTER_FIELDS.items():
            value, kept = explicit.get(option), adapter.get(field)
            same = (
                sorted(value) == sorted(kept) if isinstance(value, list) and isinstance(kept, list) else value == kept
            )
            if value is not None and not same:
                raise ConfigurationError(
                    f"{option} is {value!r}, and would have no effect: '{Path(name).name}' is an adapter that goes on being "
                    f"trained as it is, with {kept!r}. Leave it out, or begin from the base model."
                )
    trains_adapter = bool(settings.get("use_peft")) or adapter is not None
    if explicit.get("preserved_rank"):
        require_whole_weights(adapter=trains_adapter)
    frozen = explicit.get("frozen_modules") or ()
    targets, saved = explicit.get("lora_target_modules"), explicit.get("lora_modules_to_save") or ()
    foreign = settings.get("trust_remote_code")  # whose names need not be those of the files
    if foreign or not (frozen or targets or saved):
        return
    weights = weights_of(name, revision)
    if frozen and (weights is not None or trains_adapter):
        weights_in(frozen, weights or (), adapter=trains_adapter)
    if weights is None or not trains_adapter:
        return
    owner_of = {weight: weight.rpartition(".")[0] for weight in weights}
    owners = {*owner_of.values()}
    modules = {part for owner in owners for part in accumulate(owner.split("."), "{}.{}".format)}
    head = min({"lm_head", *(owner for owner in owners if "." not in owner)}, key=lambda each: each == "lm_head")
    require_modules(
        sorted({*modules, head}),
        targets=targets[0] if targets and len(targets) == 1 else targets,  # trl does so
        saved=saved,
        head=head,
        matrices={head} | {owner_of[weight] for weight, shape in weights.items() if len(shape) > 1},
    )


def _check_own_model(output_dir: Path | None, model: Any) -> None:
    """Refuse to write a run over the model that it begins from: if the run were stopped, both would be lost."""
    if output_dir is not None and model and Path(str(model)).expanduser().resolve() == output_dir.resolve():
        raise ConfigurationError(
            f"output_dir '{output_dir}' holds the model that is trained on; name another directory with --output_dir."
        )


def parse_training(
    objective: str, arguments: Sequence[str], defaults: Mapping[str, Any] | None = None
) -> tuple[Any, Any, Any]:
    """Parse into injection arguments, the objective's configuration and trl's model configuration.

    Raises:
        ConfigurationError: as `parse`.
    """
    settings = read_training(objective, arguments, defaults).settings
    return build(injection_class(), settings), *_trainer_groups(objective, settings)


def injection_class() -> Any:
    """What to learn and ask, `InjectionArguments`, imported on demand."""
    from kinject.commands.inject import InjectionArguments

    return InjectionArguments


def _trainer_groups(objective: str, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    from trl import ModelConfig

    model_args = build(ModelConfig, {"dtype": None, **settings})  # chosen by what is trained, where nobody says it
    return build(find_objective(objective).config_class(), settings), model_args


def parse(
    dataclasses: tuple[Any, ...], arguments: Sequence[str], defaults: Mapping[str, Any] | None = None
) -> tuple[Any, ...]:
    """Parse a command line and its `--config` into ``dataclasses``.

    Raises:
        ConfigurationError: no such configuration file, an unknown option in it or on the command line, or a value of
            another form or out of range.
    """
    options = {name: option for each in dataclasses for name, option in field_options(each).items()}
    settings = read_settings(arguments, options, defaults).settings
    return tuple(build(each, settings) for each in dataclasses)


def build(dataclass_type: Any, settings: Mapping[str, Any]) -> Any:
    """An instance of a dataclass from those of ``settings`` that it has.

    Raises:
        ConfigurationError: it refuses a value.
    """
    own = {name: settings[name] for name in field_options(dataclass_type) if name in settings}
    try:
        return dataclass_type(**own)
    except KinjectError:
        raise
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
