"""Adapters: their base, whether all their weights fit, and how a diffusion model is called with them.

PEFT stores only the adapter's own settings, and would lose that its base was turned into a masked diffusion model.
`diffusion.json` beside the adapter stores that. Knows nothing of training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.errors import ConfigurationError
from kinject.models.names import adapter_settings

if TYPE_CHECKING:
    from os import PathLike

    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kinject.models.diffusion import DiffusionSettings

SETTINGS_FILE = "diffusion.json"


def write_diffusion_settings(directory: str | PathLike[str], model: Any) -> Path:
    """Write the settings of the masked diffusion model ``model`` to `diffusion.json`, beside its saved adapter.

    Args:
        directory: The directory of the adapter.
        model: The adapted model, wrapped or not.

    Raises:
        ConfigurationError: the model is causal, or names no mask token.
    """
    from kinject.models.diffusion import diffusion_settings

    path = Path(directory) / SETTINGS_FILE
    settings = asdict(diffusion_settings(model))
    for name in ("expand_token_id", "delete_token_id"):
        if settings[name] is None:
            del settings[name]
    if settings["block_length"] is None:
        del settings["block_length"], settings["clean_attention"]
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return path


def adapter_config(name: str, **hub: Any) -> dict[str, Any] | None:
    """The `adapter_config.json` of a directory or Hub id, or None where it holds no adapter."""
    path = model_file(name, "adapter_config.json", **hub)
    return None if path is None else adapter_settings(path.parent)


def attach_adapter(model: PreTrainedModel | PeftModel, name: str, **hub: Any) -> PeftModel:
    """``model`` with the adapter ``name``, trainable, and turned into a diffusion model if the adapter was trained as one.

    Raises:
        ConfigurationError: the adapter is for another architecture or incomplete, or it was trained on a base with other
            diffusion settings.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    from kinject.models.weights import require_all_weights, require_finite

    weights = model_file(name, "adapter_model.safetensors", **hub)
    if weights is None:
        raise ConfigurationError("the adapter holds no adapter_model.safetensors; pickled weights are not read.")
    _apply_settings(model, name, **hub)
    base: Any = model
    try:
        adapted = PeftModel.from_pretrained(base, name, is_trainable=True, **hub)
    except ValueError as error:
        raise ConfigurationError(f"the adapter does not fit its base model: {error}") from error
    with safe_open(str(weights), framework="pt") as file:
        found = set(file.keys())
    own, with_embeddings = (
        set(get_peft_model_state_dict(adapted, save_embedding_layers=kept)) for kept in (False, True)
    )
    require_all_weights(missing=own - found, unexpected=found - with_embeddings)
    require_finite(adapted, trained_only=True)
    return adapted


def join_adapters(
    model: PreTrainedModel, names: Sequence[str], weights: Sequence[float], combination: str
) -> PeftModel:
    """``model`` with one adapter, `default`: the weighted sum of LoRA adapters, by peft's `add_weighted_adapter`.

    Args:
        model: The base of all of them.
        names: Directories or Hub ids.
        weights: The weight of each.
        combination: peft's `combination_type`.

    Raises:
        ConfigurationError: one is incomplete, or peft cannot add them.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    from kinject.models.weights import require_all_weights, require_finite

    base: Any = model
    adapted: Any = None
    _apply_settings(model, names[0])
    parts = [f"part{number}" for number in range(len(names))]
    for part, name in zip(parts, names, strict=True):
        weights_file = model_file(name, "adapter_model.safetensors")
        if weights_file is None:
            raise ConfigurationError(f"{name} holds no adapter_model.safetensors; pickled weights are not read.")
        if adapted is None:
            adapted = PeftModel.from_pretrained(base, name, adapter_name=part)
        else:
            adapted.load_adapter(name, adapter_name=part)
        with safe_open(str(weights_file), framework="pt") as file:
            found = set(file.keys())
        own = set(get_peft_model_state_dict(adapted, adapter_name=part, save_embedding_layers=False))
        require_all_weights(missing=own - found, unexpected=found - own)
    try:
        adapted.add_weighted_adapter(
            parts, [*weights], "default", combination, **({"density": 0.5} if combination == "ties" else {})
        )
    except ValueError as error:
        raise ConfigurationError(f"peft cannot merge these adapters: {error}") from error
    adapted.set_adapter("default")
    for part in parts:
        adapted.delete_adapter(part)
    joined: PeftModel = adapted
    require_finite(joined, trained_only=False)
    return joined


def require_adapter_modules(model: PreTrainedModel | PeftModel, config: PeftConfig | None) -> None:
    """Refuse an adapter whose ``config`` names modules that cannot be adapted, before any costly work.

    Raises:
        ConfigurationError: as `require_modules`.
    """
    if config is None:
        return
    head = model.get_output_embeddings()
    require_modules(
        [name for name, _ in model.named_modules()],
        targets=getattr(config, "target_modules", None),
        saved=getattr(config, "modules_to_save", None) or (),
        excluded=_listed(getattr(config, "exclude_modules", None) or ()),
        head=next((name for name, module in model.named_modules() if module is head), None),
    )


def require_modules(
    modules: Sequence[str],
    *,
    targets: str | Iterable[str] | None,
    saved: Collection[str] = (),
    excluded: Iterable[str] = (),
    head: str | None = None,
    matrices: Collection[str] | None = None,
) -> None:
    """Refuse names of modules that cannot be adapted.

    Args:
        modules: The paths of all modules of the model.
        targets: Those that get an adapter, as peft takes them: a list of names, or a pattern for whole paths; None for its
            default.
        saved: Those that are learned in full.
        excluded: Those of ``targets`` that get none.
        head: The path of the output head.
        matrices: The paths of the modules that hold a matrix of their own, if these are known.

    Raises:
        ConfigurationError: a named module that the model does not have, or that holds no matrix; a pattern that is not a
            regular expression or matches nothing; or an adapter on the output head, whose weight the loss uses directly.
    """
    absent = [each for each in saved if not any(f".{each}." in f".{name}." for name in modules)]
    if absent:
        raise ConfigurationError(
            f"lora_modules_to_save {absent} match no module of this model, so nothing would be trained there. Name modules "
            f"that it has: {_own_names(modules)}."
        )
    if targets is None or str(targets).lower() == "all-linear":
        return
    found = {each: _matched(each, modules, pattern=isinstance(targets, str)) for each in _listed(targets)}
    unmatched = [each for each, names in found.items() if not names]
    if unmatched:
        # peft reads a lone name as a regular expression for the whole path of a module.
        named = f"'{targets}' (alone, a regular expression)" if isinstance(targets, str) else unmatched
        raise ConfigurationError(
            f"lora_target_modules {named} match no module of this model. Name two or more that it has, such as q_proj v_proj, "
            f"or one as '.*q_proj', or all-linear. It has: {_own_names(modules)}."
        )
    left_out = {each for part in excluded for each in _matched(part, modules)}
    if head in {each for names in found.values() for each in names} - left_out and head not in saved:
        raise ConfigurationError(head_refusal(str(head)))
    reached = [each for names in found.values() for each in names]
    holder = next((each for each in reached if matrices is not None and each not in matrices), None)
    if holder is not None:
        raise ConfigurationError(_unadaptable(f"{holder} holds no matrix of its own."))


@contextmanager
def explained_refusals() -> Iterator[None]:
    """Say what to name instead where trl or peft refuses the modules that an adapter is to be put on.

    Raises:
        ConfigurationError: in place of their `ValueError` about the head or about `target_modules`.
    """
    try:
        yield
    except ValueError as error:
        said = str(error)
        if "adapter to `lm_head`" in said:
            raise ConfigurationError(head_refusal("lm_head")) from error
        if "Target module" in said or "`target_modules`" in said:  # one that peft cannot adapt, or none at all
            raise ConfigurationError(_unadaptable(said.splitlines()[0])) from error
        raise


def _unadaptable(why: str) -> str:
    return (
        f"lora_target_modules cannot be adapted: {why} Name two or more linear layers of the model, such as q_proj v_proj, or "
        "one as '.*q_proj', or all-linear."
    )


def head_refusal(name: str) -> str:
    """The error about an adapter on the output head ``name``: the reason, and what to name instead."""
    return (
        f"lora_target_modules reach the output head, {name}: the loss is computed from its weight directly, so an adapter on "
        "it would never be trained. Name other modules, such as q_proj v_proj, or all-linear, which leaves the head out; to "
        f"learn the head itself, in full, add --lora_modules_to_save {name.rpartition('.')[2]}."
    )


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else sorted(names)


def _matched(target: str, modules: Sequence[str], pattern: bool = False) -> list[str]:
    """The ``modules`` that peft adapts for ``target``: the end of a module's path, or a pattern for the whole path."""
    if not pattern:
        return [name for name in modules if f".{name}".endswith(f".{target}")]
    try:
        return [name for name in modules if re.fullmatch(target, name)]
    except re.error as error:
        raise ConfigurationError(
            f"lora_target_modules '{target}' (alone, a regular expression) cannot be read: {error}. Write for example "
            "'.*q_proj', or all-linear."
        ) from error


def _own_names(modules: Sequence[str]) -> str:
    """The last parts of module names, each once, without layer numbers."""
    return ", ".join(sorted({last for name in modules if (last := name.rpartition(".")[2]) and not last.isdecimal()}))


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """``model`` with its adapter merged into its weights: a whole model with the same answers. ``model`` is used up.

    Embedding and output head of many models share one tensor. If an adapter changes one of the two, they become two tensors,
    so that the other stays as it was.
    """
    base: Any = model.get_base_model()
    owners: dict[int, list[tuple[str, Any, str]]] = {}
    for path, module in base.named_modules():
        for name, weight in module.named_parameters(recurse=False):
            owners.setdefault(id(weight), []).append((path, module, name))
    for shared in owners.values():
        wrapped = any({"base_layer", "original_module"} & set(path.split(".")) for path, _, _ in shared)
        for _, module, name in shared[1:] if wrapped else ():
            weight = getattr(module, name)
            setattr(module, name, type(weight)(weight.detach().clone(), requires_grad=weight.requires_grad))
            base.config.tie_word_embeddings = base.config.get_text_config().tie_word_embeddings = False
    merged: Any = model.merge_and_unload(safe_merge=True)
    head = merged.get_output_embeddings()
    # They were trained as one tensor, by `modules_to_save`.
    if head is not None and head.weight is merged.get_input_embeddings().weight:
        merged.config.tie_word_embeddings = merged.config.get_text_config().tie_word_embeddings = True
    whole: PreTrainedModel = merged
    return whole


def own_tokenizer(name: str, trust_remote_code: bool = False, **hub: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer beside the adapter ``name``, or None where there is none.

    Raises:
        ConfigurationError: its files cannot be loaded.
    """
    from transformers import AutoTokenizer

    if all(model_file(name, file, **hub) is None for file in ("tokenizer_config.json", "tokenizer.json")):
        return None
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code, **hub)
    except ValueError as error:
        raise ConfigurationError(
            f"the tokenizer beside the adapter cannot be loaded ({str(error).splitlines()[0].strip()}). Save it there again "
            "with its save_pretrained, or remove its files to use that of the base model."
        ) from error


def _apply_settings(model: Any, name: str, **hub: Any) -> None:
    """Turn the base into the diffusion model on which the adapter was trained."""
    from kinject.models.diffusion import (
        attend_in_blocks,
        diffusion_settings,
        is_diffusion,
        text_config,
        to_diffusion,
    )

    path = model_file(name, SETTINGS_FILE, **hub)
    if path is None:
        return
    settings = _read_settings(path)
    if not is_diffusion(model):
        to_diffusion(
            model,
            settings.mask_token_id,
            shifted_logits=settings.shifted_logits,
            block_length=settings.block_length,
            clean_attention=settings.clean_attention,
        )
        return
    config = text_config(model)
    if getattr(config, "mask_token_id", None) is None:
        config.mask_token_id = settings.mask_token_id
    if settings.block_length is not None:  # training may have changed the blocks of the base
        attend_in_blocks(model, settings.block_length, settings.clean_attention)
    if diffusion_settings(model) != settings:
        raise ConfigurationError(
            f"{SETTINGS_FILE} of the adapter says {asdict(settings)}, its base model {asdict(diffusion_settings(model))}"
            "; use the base that the adapter was trained on."
        )


def _read_settings(path: Path) -> DiffusionSettings:
    from kinject.models.diffusion import DiffusionSettings

    try:
        settings = DiffusionSettings(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, json.JSONDecodeError) as error:
        raise ConfigurationError(
            f"{SETTINGS_FILE} of the adapter cannot be read ({error}); expected "
            '{"mask_token_id": <id>, "shifted_logits": true or false}.'
        ) from error
    return settings


def model_file(name: str, file: str, **hub: Any) -> Path | None:
    """``file`` of a directory or of a Hub repository, or None where there is none."""
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    from transformers.utils import cached_file

    found = cached_file(
        name,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **hub,
    )
    return None if found is None else Path(found)
