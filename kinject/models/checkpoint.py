"""Reads one checkpoint, from a directory or the Hub, and fails on any weight that does not fit."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from kinject.errors import ConfigurationError
from kinject.models.layouts import loading_options

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
_SHOWN = 3


def read_checkpoint(path: str, **model_options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and the tokenizer at ``path``, a directory or a Hub id.

    Raises:
        ConfigurationError: a file is missing, the architecture is unknown, or the weights do not fit it.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

    hub = {name: model_options[name] for name in HUB_OPTIONS if name in model_options}
    gguf = {name: model_options[name] for name in ("gguf_file",) if name in model_options}
    # Safetensors only, and no remote code unless asked: pickled weights and a repository's own classes can run anything.
    trusted = bool(model_options.get("trust_remote_code", False))
    options = {**model_options, "use_safetensors": True, "trust_remote_code": trusted}
    if trusted:
        logger.warning("trust_remote_code: Python code that comes with %s may run on this machine", path)
    try:
        translated = {} if gguf else loading_options(PreTrainedConfig.get_config_dict(path, **hub)[0], trusted)
        # Its own files say what a tokenizer is; a config.json that transformers cannot read must not get in the way.
        unread = {"config": PreTrainedConfig()} if translated else {}
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trusted, **hub, **gguf, **unread)
        except ValueError as error:
            raise ConfigurationError(
                f"has no tokenizer that can be loaded ({str(error).splitlines()[0].strip()}). Expected tokenizer.json "
                "beside config.json; save the tokenizer there with its save_pretrained."
            ) from error
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, output_loading_info=True, ignore_mismatched_sizes=True, **options, **translated
        )
    except OSError as error:
        raise ConfigurationError(f"could not be loaded: {' '.join(str(error).split())}") from error
    except SafetensorError as error:
        raise ConfigurationError(
            f"has a file of weights that was not written to its end, or is none: {error}. Download or save it again."
        ) from error
    model, info = loaded
    require_all_weights(
        missing=info["missing_keys"],
        unexpected=info["unexpected_keys"],
        misshapen=[key for key, *_ in info["mismatched_keys"]],
    )
    require_finite(model)
    # The names the weights came under: left here, `save_pretrained` would write them beside the native config.json.
    if "key_mapping" in translated:
        model._weight_conversions = []
    return model, tokenizer


def local_part(weight: torch.Tensor) -> torch.Tensor:
    """What this process holds of a weight, which ZeRO-3 or FSDP may have sharded."""
    part: Any = getattr(weight, "ds_tensor", weight)
    return part.to_local() if hasattr(part, "to_local") else part


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether no number in ``tensors`` is nan or infinite, as far as this process holds them."""
    import torch

    # A sum is finite only where all of its terms are, and takes no memory.
    sums = [
        part.float().sum() if part.element_size() == 1 else part.sum(dtype=torch.float32)
        for part in (local_part(tensor).detach() for tensor in tensors)
        if part.is_floating_point() and not part.is_meta
    ]
    return not sums or bool(torch.stack([each.to(sums[0].device) for each in sums]).isfinite().all())


def require_finite(model: torch.nn.Module, trained_only: bool = False) -> None:
    """Refuse weights that are not numbers: they answer nothing, and say so to nobody.

    Args:
        model: Whole, or sharded over processes, of which each looks at its own part.
        trained_only: Leave out the weights that take no gradient.

    Raises:
        ConfigurationError: a weight holds nan or an infinite number.
    """
    weights = [(name, each) for name, each in model.named_parameters() if each.requires_grad or not trained_only]
    if all_finite(weight for _, weight in weights):
        return
    names = sorted(name for name, weight in weights if not all_finite([weight]))
    raise ConfigurationError(
        f"has weights that are not finite numbers (nan or inf): {_some(names)}. The training that wrote them diverged. Take "
        "an earlier checkpoint of it, or train again with a lower learning rate."
    )


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:_SHOWN]) + (', ...' if len(names) > _SHOWN else '')})"


def require_all_weights(
    missing: Iterable[str] = (), unexpected: Iterable[str] = (), misshapen: Iterable[str] = ()
) -> None:
    """Refuse weights that are not exactly those of the model: what is missing would stay random in silence.

    Raises:
        ConfigurationError: any is missing, unexpected or of another shape.
    """
    faults = []
    for keys, fault in ((missing, "missing"), (unexpected, "unexpected"), (misshapen, "of another shape")):
        names = sorted(keys)
        if names:
            count, _, shown = _some(names).partition(" ")
            faults.append(f"{count} {fault} {shown}")
    if faults:
        raise ConfigurationError(
            f"has weights that do not fit its configuration: {'; '.join(faults)}. Expected the files of one "
            "complete checkpoint; download or save it again."
        )
