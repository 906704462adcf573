"""The settings of a run: reads a command line and a YAML file, and checks names and values before any heavy import.

Knows the options from the sources of the classes that have them, and nothing of what a run does with a setting.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kinject.commands.options import (
    FALSE,
    OBJECTIVES,
    PRESETS,
    TRUE,
    Option,
    all_training_options,
    find_objective,
    paper_settings,
    trackers,
    training_options,
)
from kinject.commands.output_dir import TAKE_LAST, resumes, unfinished_checkpoint
from kinject.compat import NEEDED, UNUSED, UNUSED_IN_RUNS, liger_refusal, packing_refusal, require_attention
from kinject.errors import ConfigurationError, did_you_mean
from kinject.models.adapters import head_refusal
from kinject.models.names import OWN_MODELS, is_whole, looks_both_ways, require_model

MODEL = "model_name_or_path"
_ALONE = {"keep": "known"}  # the value of an option that stands without one
_TRACKER_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "trackio": ("trackio",), "wandb": ("wandb",)}
_SECRETS = ("hub_token", "push_to_hub_token")
# The range of a number: in words, its least and its greatest value, and whether each of these is allowed itself.
_RANGES: dict[str, tuple[str, float, float, bool, bool]] = {
    **dict.fromkeys(
        (
            *("per_device_train_batch_size", "gradient_accumulation_steps", "question_batch_size", "batch_size"),
            *("max_new_tokens", "block_length", "sampling_steps", "max_length", "lora_r", "evaluate_every"),
        ),
        ("1 or more", 1, math.inf, True, True),
    ),
    **dict.fromkeys(
        (
            *("evaluations", "few_shot", "seed", "data_seed", "dataloader_num_workers"),
            *("learning_rate", "weight_decay", "warmup_steps", "max_grad_norm"),
        ),
        ("0 or more", 0, math.inf, True, True),
    ),
    **dict.fromkeys(("num_train_epochs", "save_steps", "logging_steps"), ("more than 0", 0, math.inf, False, True)),
    "rehearsal": ("a share of the samples from 0 to below 1, such as 0.5", 0, 1, True, False),
    "keep_share": ("a share above 0 and below 1, such as 0.5", 0, 1, False, False),
    "practice": ("a share from 0 to below 1, such as 0.5", 0, 1, True, False),
    "identity": ("a share from 0 to 1, such as 0.3", 0, 1, True, True),
    "gaps": ("a share from 0 to 1, such as 0.4", 0, 1, True, True),
    "abstain": ("a share from 0 to below 1, such as 0.33", 0, 1, True, False),
    "anchor": ("0 or more, such as 0.5", 0, math.inf, True, True),
    "infill_share": ("a share from 0 to 1", 0, 1, True, True),
    "port": ("a port from 0 to 65535", 0, 65535, True, True),
    "lora_dropout": ("a share from 0 to below 1, such as 0.05", 0, 1, True, False),
}


@dataclass(frozen=True)
class Given:
    """The settings of a command line and its `--config`, with their names and forms checked.

    Attributes:
        settings: Values by name: of the command line, else of the file, else the defaults that a command prefers.
        typed: The names on the command line.
        written: The names in the file.
    """

    settings: dict[str, Any]
    typed: frozenset[str]
    written: frozenset[str]


def split_preset(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of `--preset` in ``words``, if it is there, and the other words.

    Raises:
        ConfigurationError: `--preset` without a value.
    """
    left: list[str] = []
    found = None
    pending = list(words)
    while pending:
        word = pending.pop(0)
        start, equals, value = word.partition("=")
        if start != "--preset":
            left.append(word)
        elif equals or pending:
            found = value if equals else pending.pop(0)
        else:
            raise ConfigurationError(f"--preset expects a value: {', '.join(PRESETS)}.")
    return found, left


def split_objective(words: Sequence[str]) -> tuple[str, list[str]]:
    """The objective that a command line or its `--config` names, and the options for its recipe.

    Documents may stand anywhere among the words. They become values of `--documents`, so that no other option takes them for
    its own. Unknown options are passed on; the recipe refuses them.
    """
    known = {
        **all_training_options(),
        **{name: Option(name, "str", None, "", (), "") for name in ("objective", "config")},
    }
    documents, pairs, unknown = split_arguments(words, known)
    typed = next((values[-1] for name, values in reversed(pairs) if name == "objective"), None)
    file = next((values[-1] for name, values in reversed(pairs) if name == "config"), None)
    written = read_config(Path(file)).get("objective") if file is not None and Path(file).is_file() else None
    objective = typed or str(written or "masked")
    find_objective(objective)
    first = ("config", "documents", "model_name_or_path", "questions", "output_dir")
    pairs += [("documents", [each]) for each in documents]
    pairs.sort(key=lambda pair: first.index(pair[0]) if pair[0] in first else len(first))
    options = ["--objective", typed] if typed and written and typed != written else []
    for name, values in pairs:
        if name != "objective":
            flag = known[name].takes == "flag" and values == ["true"]
            odd = known[name].takes == "flag" and values[0].lower() not in (*TRUE, *FALSE)
            dashed = len(values) == 1 and (odd or values[0].startswith("-"))
            options += [f"--{name}={values[0]}"] if dashed else [f"--{name}", *([] if flag else values)]
    options += [word for each in unknown for word in each]
    return objective, options


def read_training(objective: str, arguments: Sequence[str], defaults: Mapping[str, Any] | None = None) -> Given:
    """The settings in ``arguments`` for the recipe of ``objective``; settings without any effect are refused.

    Raises:
        ConfigurationError: a name, form or value that cannot be, or settings that contradict each other.
    """
    chosen = find_objective(objective)
    options = training_options(objective)
    preferred = {**(defaults or {}), **chosen.settings}
    if "objective" not in options:  # a file that names what it is for
        options = {**options, "objective": Option("objective", "str", objective, "", (), "")}
        preferred["objective"] = objective
    given = read_settings(arguments, options, preferred, listing="--all_options", words_are="documents")
    meant = given.settings["objective"]
    if meant != objective and find_objective(meant).config != chosen.config:
        raise ConfigurationError(f"objective is '{meant}' in the settings, and this trains {objective}; leave it out.")
    _check_paper(given, chosen.settings)
    _check_effect(given, options, objective)
    _check_laws(given.settings)
    return _without_contradictions(given)


def _without_contradictions(given: Given) -> Given:
    """``given`` without the settings of a preset that contradict what was typed or written, which wins.

    An adapter freezes the whole model, and `max_steps` may end a run before the last epochs, which known questions are for.
    """
    explicit, settings = given.typed | given.written, dict(given.settings)
    if settings.get("use_peft"):
        for name in {"frozen_modules", "preserved_rank"} - {*explicit}:
            settings.pop(name, None)
    if int(settings.get("max_steps") or -1) > 0 and "known" not in explicit:
        settings.pop("known", None)
    return replace(given, settings=settings)


def read_settings(
    arguments: Sequence[str],
    options: Mapping[str, Option],
    defaults: Mapping[str, Any] | None = None,
    *,
    listing: str = "--help",
    words_are: str | None = None,
) -> Given:
    """Read a command line and the file that its `--config` names, without importing what the options are for.

    Args:
        arguments: As typed.
        options: What may be set, by name.
        defaults: What holds where neither says anything.
        listing: The option that lists all others, to be named in errors.
        words_are: The setting that words which belong to no option are values of.

    Raises:
        ConfigurationError: a name, form or value that cannot be.
    """
    known = {**options, "config": Option("config", "str | None", None, "", (), "")}
    words, pairs, unknown = split_arguments(arguments, known)
    if any(name in _SECRETS for name, _ in pairs) or any(_bare(each[0]) in _SECRETS for each in unknown):
        raise ConfigurationError(
            "--hub_token: every user of this machine can read a command line. Leave the token out, and set the environment "
            "variable HF_TOKEN or log in with `hf auth login`."
        )
    if unknown:
        raise _unknown("on the command line", [" ".join(each) for each in unknown], options, listing)
    typed = dict(_typed(pairs, known))
    if words:
        if words_are is None or words_are not in options:
            raise ConfigurationError(
                f"'{words[0]}' belongs to no option; every setting follows its name, as in --seed 1. {listing} lists all "
                "options."
            )
        before = typed.get(words_are, [])
        typed[words_are] = [*([before] if isinstance(before, str) else before), *words]
        typed[words_are] = typed[words_are][0] if len(typed[words_are]) == 1 else typed[words_are]
    config = typed.pop("config", None)
    written = {} if config is None else _written(Path(config or " "), options, listing)
    if words_are is not None:
        _check_swallowed(typed, options)
    settings = {**(defaults or {}), **written, **typed}
    for name, value in settings.items():
        check_range(name, value)
    return Given(settings, frozenset(typed), frozenset(written))


def split_arguments(
    arguments: Sequence[str], options: Mapping[str, Option]
) -> tuple[list[str], list[tuple[str, list[str]]], list[list[str]]]:
    """The words of a command line that belong to no option, the options with their values, and the unknown options.

    How many words follow an option is a matter of its type, so that words and options may stand in any order. `--` ends the
    options.

    Raises:
        ConfigurationError: an option without its value.
    """
    words: list[str] = []
    pairs: list[tuple[str, list[str]]] = []
    unknown: list[list[str]] = []
    models: dict[str, str] = {}  # as they are named by one spelling of the option and the other
    pending = deque(arguments)
    while pending:
        word = pending.popleft()
        if word == "--":
            words.extend(pending)
            break
        if not is_option(word):
            words.append(word)
            continue
        start, equals, value = word.partition("=")
        name = _bare(start)
        if name == "model" and name not in options and MODEL in options:
            name = MODEL
        option = options.get(name) if start.startswith("--") else None
        denied = options.get(name.removeprefix("no_"))
        if option is None and denied is not None and name.startswith("no_") and denied.takes == "flag":
            pairs.append((denied.name, ["false"]))
        elif option is None:
            follows = not equals and pending and not is_option(pending[0])
            unknown.append([word, pending.popleft()] if follows else [word])
        elif equals:
            pairs.append((name, [value]))
        elif option.takes == "flag":
            stands_alone = not pending or pending[0].lower() not in (*TRUE, *FALSE, *option.choices, "none")
            pairs.append((name, ["true" if stands_alone else pending.popleft()]))
        else:
            values: list[str] = []
            while pending and not is_option(pending[0]) and pending[0] != "--":
                values.append(pending.popleft())
                if option.takes == "one":
                    break
            if not values and name in _ALONE:
                values = [_ALONE[name]]
            if not values and name != "config":  # whose own error tells what it expects
                raise ConfigurationError(f"{start} expects a value, as in {start} VALUE or {start}=VALUE.")
            pairs.append((name, values or [""]))
        if name == MODEL and option is not None:
            models[start] = pairs[-1][1][0]
    if len(set(models.values())) > 1:
        raise ConfigurationError(
            f"{' and '.join(f'{start} {value}' for start, value in models.items())} name two models."
        )
    return words, pairs, unknown


def is_option(word: str) -> bool:
    """Whether ``word`` names an option; negative numbers and texts that begin with dashes do not."""
    return re.match(r"--?[A-Za-z]", word) is not None and not re.search(r"\s", word.partition("=")[0])


def _bare(word: str) -> str:
    return word.partition("=")[0].lstrip("-").replace("-", "_")


def _typed(pairs: Sequence[tuple[str, list[str]]], options: Mapping[str, Option]) -> dict[str, Any]:
    """The values of ``pairs``; an option that takes several collects them, of another the last holds."""
    collected: dict[str, list[str]] = {}
    for name, words in pairs:
        several = any(kind.startswith("list") for kind in options[name].kinds)
        collected[name] = [*collected.get(name, []), *words] if several else words
    return {name: options[name].typed(words) for name, words in collected.items()}


def _written(path: Path, options: Mapping[str, Option], listing: str) -> dict[str, Any]:
    """The settings in a YAML file; variables under `env` are set in the environment."""
    content = read_config(path)
    if not isinstance(content.get("env", {}), dict):
        raise ConfigurationError(f"--config {path}: env holds variables with their values, as in env: {{NAME: value}}.")
    os.environ.update({str(name): str(value) for name, value in content.pop("env", {}).items()})
    if "model" in content and "model" not in options and MODEL in options:
        model = content.pop("model")
        if content.setdefault(MODEL, model) != model:
            raise ConfigurationError(f"--config {path}: model and {MODEL} name two models; name one.")
    unknown = [f"--{name} {value}" for name, value in content.items() if name not in options]
    if unknown:
        raise _unknown("in the --config file", unknown, options, listing)
    try:
        return {name: options[name].written(value) for name, value in content.items()}
    except ConfigurationError as error:
        raise ConfigurationError(f"--config {path}: {error}") from error


def read_config(path: Path) -> dict[str, Any]:
    """The content of a YAML file of settings.

    Raises:
        ConfigurationError: it is not there, is no YAML, or names a setting twice.
    """
    import yaml

    if not path.is_file():
        from kinject.data.readers import near_path

        what, near = ("a folder", "") if path.is_dir() else ("no such file", near_path(str(path)))
        raise ConfigurationError(f"--config {path}: {what}. Expected a YAML file of settings{near or '.'}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"--config {path}: not valid YAML: {error}. Save it as UTF-8.") from error
    try:
        content, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        advice = " YAML indents with spaces: replace the tabs." if "'\\t'" in str(error) else ""
        raise ConfigurationError(f"--config {path}: not valid YAML: {' '.join(str(error).split())}.{advice}") from error
    if not isinstance(content, dict) or not isinstance(node, yaml.MappingNode):
        found = (
            "it is empty"
            if content is None
            else f"it holds a {'list' if isinstance(content, list) else 'single value'}"
        )
        raise ConfigurationError(
            f"--config {path} must contain a YAML mapping of names to values, as in learning_rate: 1e-4; {found}."
        )
    twice = next(_names_twice(node), None)
    if twice is not None:
        raise ConfigurationError(f"--config {path}: {twice} is set twice; keep one of the lines.")
    return {str(name): value for name, value in content.items()}


def _names_twice(node: Any) -> Iterator[str]:
    """The names that a YAML mapping, or one inside it, gives twice."""
    pairs = node.value if node.id == "mapping" else ()
    names = [key.value for key, _ in pairs if key.value != "<<"]
    yield from (str(name) for position, name in enumerate(names) if name in names[:position])
    for inside in (value for _, value in pairs) if pairs else node.value if node.id == "sequence" else ():
        yield from _names_twice(inside)


def _unknown(where: str, shown: Sequence[str], options: Mapping[str, Option], listing: str) -> ConfigurationError:
    name = _bare(shown[0].split()[0])
    owners = [each for each in OBJECTIVES if name in training_options(each)] if name not in options else []
    hint = did_you_mean(name, [*options, *(["model"] if MODEL in options else [])], "--")
    if owners and "overwrite" in options:
        hint = f"; it belongs to the objective{'s' * (len(owners) > 1)} {', '.join(owners)}."
    return ConfigurationError(f"unknown option {where}: {' '.join(shown)}{hint} {listing} lists all options.")


def _check_swallowed(typed: Mapping[str, Any], options: Mapping[str, Option]) -> None:
    """Refuse documents that an option with several values took for one of its own."""
    for name, value in typed.items():
        if options[name].takes == "many" and name != "baselines":
            for word in value or ():
                if Path(word).exists() or word.startswith("fictional:"):
                    raise ConfigurationError(
                        f"--{name} took {word} for one of its values. Name documents first, or after --, as in: "
                        f"--{name} ... -- {word}"
                    )


# Checks of what was read.


def check_range(name: str, value: Any) -> None:
    """Refuse a number out of the range that the setting ``name`` has.

    Raises:
        ConfigurationError: it is.
    """
    if name not in _RANGES or isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    said, least, greatest, with_least, with_greatest = _RANGES[name]
    if (
        value < least
        or value > greatest
        or (value == least and not with_least)
        or (value == greatest and not with_greatest)
    ):
        raise ConfigurationError(f"{name} is {value}; expected {said}.")


def _check_paper(given: Given, fixed: Mapping[str, Any]) -> None:
    """Let `--recipe paper` replace settings of a file and a command's defaults; refuse settings that contradict it."""
    if given.settings.get("recipe") != "paper":
        return
    beside = {*fixed, *given.typed, *(() if "recipe" in given.typed else given.written)}
    paper = paper_settings()
    against = [name for name, value in paper.items() if name in beside and given.settings[name] != value]
    if against:
        settings = ", ".join(f"{name} {given.settings[name]} (the paper: {paper[name]})" for name in against)
        raise ConfigurationError(
            f"recipe paper is the objective as published, and {settings} is not. Leave out --recipe paper, or what "
            "differs from it."
        )
    replaced = [name for name, value in paper.items() if name in given.written and given.settings[name] != value]
    if replaced:
        print(f"--recipe paper replaces {', '.join(replaced)} of the --config file.", file=sys.stderr)
    for name in paper:
        given.settings.pop(name, None)


def _check_effect(given: Given, options: Mapping[str, Option], objective: str) -> None:
    """Refuse settings that have no effect on this run."""
    explicit = given.typed | given.written
    for name in sorted(explicit):
        value, option = given.settings.get(name), options[name]
        if value == option.default or name not in given.settings:
            continue
        unused = UNUSED.get(name) or UNUSED_IN_RUNS.get(name)
        if unused:
            raise ConfigurationError(f"{name} is {value!r}, and would have no effect: {unused}")
        if name in NEEDED:
            other, without, why = NEEDED[name]
            if other in options and other not in explicit and given.settings.get(other) in without:
                raise ConfigurationError(f"{name} is {value!r}, and would have no effect: {why}.")
    if find_objective(objective).config != find_objective("diffusion").config:
        for name in ("sampling", "sampling_steps", "block_length"):
            if name in explicit and given.settings[name] != options[name].default:
                raise ConfigurationError(
                    f"{name} is {given.settings[name]!r}, and would have no effect: it says how masked diffusion models "
                    f"answer, and {objective} trains an autoregressive one, which answers greedily."
                )
    if given.settings.get("select_on") == "practice" and not given.settings.get("practice"):
        raise ConfigurationError(
            "select_on is 'practice', and nothing is practiced: set --practice 0.5, or select otherwise."
        )
    if given.settings.get("save_strategy") == "best":
        raise ConfigurationError(
            f"save_strategy is 'best', and would have no effect: {UNUSED_IN_RUNS['eval_strategy']}"
        )


def _check_laws(settings: Mapping[str, Any]) -> None:
    """Refuse a mask ratio that cannot be read."""
    from kinject.corruption import parse_mask_ratio

    for name in ("mask_ratio", "infill_ratio"):
        if isinstance(settings.get(name), str):
            parse_mask_ratio(settings[name])


def default_output_dir(objective: str, documents: str | Sequence[str]) -> str:
    """Where a run goes for which no `--output_dir` is given: a directory named after what is trained."""
    first, *others = [documents] if isinstance(documents, str) else list(documents)
    stem = Path(first.removeprefix("fictional:").rstrip("/")).stem if first.strip("./") else Path(first).resolve().name
    name = re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "documents"
    return f"outputs/{objective}-{name}" + (f"-and-{len(others)}-more" if others else "")


def check_files(settings: Mapping[str, Any]) -> None:
    """Refuse files and directories that are named and not there, before anything is loaded.

    Raises:
        ConfigurationError: there is one.
        DataError: a baseline without results.
    """
    check_named_model(settings)
    if settings.get("writer"):
        require_model(settings["writer"])
    check_settings(settings)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings that contradict each other, the model's own or what is installed, and other files that are not there.

    Raises:
        ConfigurationError: there is one.
        DataError: a baseline without results.
    """
    from kinject.evaluation.results import read_results

    require_attention(settings.get("attn_implementation"), on_cpu=bool(settings.get("use_cpu")))
    if settings.get("fp16") and settings.get("bf16"):
        raise ConfigurationError("fp16 and bf16 are both set; a run computes in one of them.")
    repository = settings.get("hub_model_id")
    if settings.get("push_to_hub") and repository and repository.count("/") > 1:
        raise ConfigurationError(f"hub_model_id is '{repository}'; expected a repository, as user/name.")
    if settings.get("load_in_4bit") and settings.get("load_in_8bit"):
        raise ConfigurationError("load_in_4bit and load_in_8bit are both set; weights are stored in one of them.")
    for name in ("load_in_4bit", "load_in_8bit"):
        if settings.get(name) and not settings.get("use_peft"):
            raise ConfigurationError(
                f"{name}: quantized weights cannot learn; train an adapter beside them: --use_peft."
            )
    _check_trackers(settings.get("report_to"))
    _check_packing(settings)
    _check_kind(str(settings[MODEL]), settings)
    _check_adapter_head(settings)
    _check_liger(settings)
    for run in settings.get("baselines") or ():
        read_results(run)
    checkpoint = str(settings.get("resume_from_checkpoint"))
    named = resumes(checkpoint) and checkpoint.lower() not in TAKE_LAST
    files = [each for each in Path(checkpoint).rglob("*") if each.is_file()] if named else []
    if named and not ((Path(checkpoint) / "trainer_state.json").is_file() and all(map(is_whole, files))):
        raise unfinished_checkpoint(checkpoint)
    if settings.get("wordings", "paper") not in ("paper", "rotating"):
        from kinject.prompts.templates import named_wordings

        named_wordings(settings["wordings"])
    for name in ("deepspeed", "fsdp_config", "accelerator_config"):
        value = settings.get(name)
        if isinstance(value, str) and not value.lstrip().startswith("{") and not Path(value).is_file():
            raise ConfigurationError(f"{name}: {value}: no such file. Expected a JSON file.")


def _check_trackers(named: Any) -> None:
    """Refuse trackers that transformers does not know, or whose package is missing."""
    names = [named] if isinstance(named, str) else list(named or ())
    if not names or names in (["none"], ["all"]):
        return
    known = trackers()
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise ConfigurationError(
            f"report_to is '{unknown}'; expected none, all or one of {', '.join(known)}{did_you_mean(unknown, known)}"
        )
    for name in names:
        packages = _TRACKER_PACKAGES.get(name, ())
        if packages and not any(map(find_spec, packages)):
            raise ConfigurationError(
                f"report_to: {name} is not installed; pip install 'kinject[trackers]' brings tensorboard, trackio and wandb, "
                "and --report_to none does without."
            )


def _check_packing(settings: Mapping[str, Any]) -> None:
    """Refuse packing where the settings alone show that documents of a row would see each other."""
    if not (settings.get("packing") or settings.get("padding_free")):
        return
    if (
        settings.get("to_diffusion")
        or find_objective(settings["objective"]).config == find_objective("diffusion").config
    ):
        raise ConfigurationError(packing_refusal(None))
    attention = settings.get("attn_implementation")
    says_otherwise = "attn_implementation" in str(settings.get("model_init_kwargs")) or (
        '"attn_implementation"' in _config_text(settings)
    )
    if attention in ("sdpa", "eager") or (attention is None and not says_otherwise):
        raise ConfigurationError(packing_refusal(attention or "sdpa"))


def _config_text(settings: Mapping[str, Any]) -> str:
    """The `config.json` of a model in a directory; "" for any other."""
    path = Path(str(settings.get(MODEL))) / "config.json"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _check_adapter_head(settings: Mapping[str, Any]) -> None:
    """Refuse an adapter on the output head, where that is named as most models call it."""
    targets, saved = settings.get("lora_target_modules") or (), settings.get("lora_modules_to_save") or ()
    if settings.get("use_peft") and "lm_head" in targets and "lm_head" not in saved:
        raise ConfigurationError(head_refusal("lm_head"))


def _check_liger(settings: Mapping[str, Any]) -> None:
    """Refuse Liger kernels without their package, or on a machine whose processor is to be used."""
    if settings.get("use_liger_kernel") and (settings.get("use_cpu") or find_spec("liger_kernel") is None):
        raise ConfigurationError(liger_refusal(on_cpu=bool(settings.get("use_cpu"))))


def check_named_model(settings: Mapping[str, Any]) -> None:
    """Refuse a model that cannot be trained so, as far as its name and its files tell.

    Raises:
        ConfigurationError, HubError: as `require_model`.
    """
    name = settings.get(MODEL)
    if not name:
        raise ConfigurationError("no model is named; pass --model, such as smollm2-135m.")
    revision = settings.get("model_revision", "main")
    if Path(name).is_dir() and name not in OWN_MODELS and revision != "main":
        raise ConfigurationError(
            f"model_revision is '{revision}', and would have no effect: '{Path(name).name}' is a directory here."
        )
    objective = settings.get("objective")
    diffusion = objective is not None and find_objective(objective).config == find_objective("diffusion").config
    both_ways = diffusion or bool(settings.get("to_diffusion"))
    require_model(name, revision=revision, trusted=bool(settings.get("trust_remote_code")), both_ways=both_ways)


def _check_kind(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse a masked diffusion model where an autoregressive one is trained, and the other way round."""
    objective, both_ways = settings.get("objective"), looks_both_ways(name)
    if objective is None:  # a recipe that trains without one
        return
    if find_objective(objective).config != find_objective("diffusion").config:
        if both_ways:
            raise ConfigurationError(
                f"model '{Path(name).name}' is a masked diffusion model, and {objective} trains autoregressive ones, which "
                "predict the next token. Train it with --objective diffusion, or name an autoregressive model."
            )
    elif both_ways is False and not settings.get("to_diffusion"):
        raise ConfigurationError(
            f"model '{Path(name).name}' is causal (autoregressive), not a masked diffusion model. Name a diffusion checkpoint, "
            "or turn this one into one with --to_diffusion."
        )
