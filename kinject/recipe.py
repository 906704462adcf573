"""What every training recipe does around its objective: help, `--config`, errors, and the embedded default."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kinject.errors import ConfigurationError, KinjectError, exit_on_user_error
from kinject.objectives import find_objective, objective_name


def main(objective: str, default_config: Path, argv: Sequence[str] | None = None) -> None:
    """Run a training recipe from the command line; with no argument at all, ``default_config``.

    Errors that the user can mend are printed in one line, and the process ends with status 2.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        from kinject.option_help import recipe_help

        with exit_on_user_error():
            print(recipe_help(objective))
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
        from kinject.option_help import evaluate_help

        with exit_on_user_error():
            print(evaluate_help())
        return
    with exit_on_user_error():
        from kinject.measurement import MeasurementArguments, evaluate_model

        (parsed,) = parse((MeasurementArguments,), arguments)
        evaluate_model(parsed)


def train(objective: str, arguments: Sequence[str], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Parse ``arguments`` (command line or `--config`) for ``objective`` and run it.

    Args:
        objective: What to train, by name.
        arguments: Options as typed.
        defaults: Settings that hold where ``arguments`` say nothing.

    Returns:
        The content of `results.json`.

    Raises:
        KinjectError: what the user can mend.
    """
    chosen = find_objective(objective)  # before the heavy imports
    from kinject.injection import inject

    script_args, training_args, model_args = parse_training(objective, arguments, defaults)
    return inject(chosen.trainer_class(), script_args, training_args, model_args, objective_name(training_args))


def parse_training(
    objective: str, arguments: Sequence[str], defaults: Mapping[str, Any] | None = None
) -> tuple[Any, Any, Any]:
    """Parse into injection arguments, the objective's configuration and trl's model configuration.

    Raises:
        ConfigurationError: as `parse`.
    """
    check_config_file(arguments)  # before the heavy imports
    from trl import ModelConfig

    from kinject.injection import InjectionArguments

    chosen = find_objective(objective)
    parsed = parse(
        (InjectionArguments, chosen.config_class(), ModelConfig), arguments, {**(defaults or {}), **chosen.settings}
    )
    return parsed[0], parsed[1], parsed[2]


def parse(
    dataclasses: tuple[Any, ...], arguments: Sequence[str], defaults: Mapping[str, Any] | None = None
) -> tuple[Any, ...]:
    """Parse a command line and its `--config` into ``dataclasses``.

    Raises:
        ConfigurationError: no such configuration file, an unknown option in it or on the command line, or a value out
            of range.
    """
    check_config_file(arguments)
    if any(argument.split("=")[0] in ("--hub_token", "--push_to_hub_token") for argument in arguments):
        raise ConfigurationError(
            "--hub_token: whatever stands on a command line can be read by every user of this machine. Set the environment "
            "variable HF_TOKEN, or log in with `hf auth login`, and leave it out."
        )
    from trl import TrlParser

    parser = TrlParser(dataclasses, usage="%(prog)s [--config FILE] [--OPTION VALUE ...], see --help")
    parser.set_defaults(**(defaults or {}))
    try:
        *parsed, unknown_in_config, unknown = parser.parse_args_and_config(
            list(arguments), return_remaining_strings=True, separate_remaining_strings=True
        )
    except KinjectError:
        raise
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    for where, strings in (("in the --config file", unknown_in_config), ("on the command line", unknown)):
        if strings:
            raise ConfigurationError(f"unknown option {where}: {' '.join(strings)}. --help lists all options.")
    return tuple(parsed)


def check_config_file(arguments: Sequence[str]) -> None:
    """Refuse a `--config` that names no file, or one that is no YAML.

    Raises:
        ConfigurationError: so it is.
    """
    import yaml

    if "--config" not in arguments:
        return
    position = list(arguments).index("--config") + 1
    if position == len(arguments) or not Path(arguments[position]).is_file():
        named = arguments[position] if position < len(arguments) else ""
        raise ConfigurationError(f"--config {named}: no such file. Expected a YAML file of settings.")
    try:
        yaml.safe_load(Path(arguments[position]).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--config {arguments[position]}: not valid YAML: {error}") from error
