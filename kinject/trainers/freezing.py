"""Modules that keep their weights while the rest of a model learns in full.

Facts are stored in the MLPs more than in attention (Meng et al. 2022, arXiv 2202.05262), so that new ones can be learned
with attention left alone, and with it the ways in which a model finds what it knew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kinject.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import nn


def frozen_parameters(model: nn.Module, modules: Sequence[str], *, adapter: bool = False) -> list[nn.Parameter]:
    """The weights of ``model`` that lie in ``modules``.

    Args:
        model: A model that learns in full.
        modules: Names of modules, each one or more parts of a weight's dotted name, such as `self_attn` or `layers.0`.
        adapter: Whether an adapter is trained instead of the model.

    Raises:
        ConfigurationError: a module that holds no weight, nothing left to learn, or an adapter, beside which all of the
            model is frozen.
    """
    if not modules:
        return []
    if adapter:
        raise ConfigurationError(
            f"frozen_modules {list(modules)} go with a model that learns in full, and an adapter is trained here. Leave out "
            "--use_peft, or name the modules that get an adapter with --lora_target_modules."
        )
    weights = dict(model.named_parameters())
    inside = {module: [name for name in weights if f".{module}." in f".{name}."] for module in modules}
    for module, names in inside.items():
        if not names:
            parts = sorted({part for name in weights for part in name.split(".")[:-1] if not part.isdecimal()})
            raise ConfigurationError(
                f"frozen_modules: no weight of this model lies in '{module}'. Name modules that it has: {', '.join(parts)}."
            )
    frozen = {name for names in inside.values() for name in names}
    if len(frozen) == len(weights):
        raise ConfigurationError(
            f"frozen_modules {list(modules)} hold all of the model's weights; leave some of them to learn."
        )
    return [weights[name] for name in weights if name in frozen]
