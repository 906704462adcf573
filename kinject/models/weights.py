"""A model's weights: counted, gathered where they are sharded, frozen, checked, stored; and what processes agree on.

Knows nothing of objectives.
"""

from __future__ import annotations

import json
import sys
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn

from kinject.errors import ConfigurationError
from kinject.models import devices
from kinject.models.names import weights_in

if TYPE_CHECKING:
    from transformers import Trainer


# The cost of training: floating-point operations and memory.


def flops_per_token(model: Any) -> float:
    """An estimate of the floating-point operations of one training step, per token.

    Every weight of a matrix product costs 2 operations in the forward pass and 2 for the gradient of its input, and a
    trained one 2 more for its own gradient (arXiv 2001.08361, section 2.1). Input embeddings are not multiplied unless they
    are also the output head. Attention scores and recomputation under gradient checkpointing are not counted.
    """
    embeddings = {id(model.get_input_embeddings().weight)}
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is not None:
        embeddings.discard(id(head.weight))
    multiplied = trained = 0
    for parameter in model.parameters():
        if len(getattr(parameter, "ds_shape", parameter.shape)) > 1 and id(parameter) not in embeddings:
            count = _size(parameter)
            multiplied += count
            trained += count if parameter.requires_grad else 0
    return 4.0 * multiplied + 2.0 * trained


def parameter_count(model: Any) -> int:
    """The number of weights, including those that ZeRO-3 has sharded or bitsandbytes has packed."""
    return sum(_size(parameter) for parameter in model.parameters())


def peak_memory_bytes() -> int:
    """The most memory that this process has held: on its GPU if it uses one, else resident memory of the host."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes everywhere but on macOS


def _size(parameter: Any) -> int:
    """Number of weights of a plain, ZeRO-3-sharded or 4-bit parameter."""
    quantized = getattr(parameter, "quant_state", None)
    if quantized is not None:
        return int(quantized.shape.numel())
    return int(getattr(parameter, "ds_numel", parameter.numel()))


# Weights that are sharded over processes: gathered for questions, and loaded.

_gathered: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@contextmanager
def whole_model(trainer: Trainer) -> Iterator[Any]:
    """The model of ``trainer`` with all its weights, by `whole_weights`, to be asked in the precision of training.

    accelerate's autocast inside `forward` would round all weights again for every token of an answer; the one around this block
    rounds them once.
    """
    with whole_weights(trainer.model, trainer.model_wrapped) as model, trainer.accelerator.autocast():
        yield model


@contextmanager
def whole_weights(model: Any, wrapped: Any = None) -> Iterator[Any]:
    """``model``, of which every process holds all weights in the block, if the devices have room for those ZeRO-3 has sharded.

    Without room ``model`` stays sharded, and its layers are gathered for every token of an answer. Every process has to enter
    and leave the block.

    Args:
        model: Whole or sharded.
        wrapped: DeepSpeed's engine around it, if there is one already.
    """
    if not is_by_zero3(model) or not _fits_whole(model):
        yield model
        return
    import deepspeed
    from trl.models.utils import add_hooks, remove_hooks

    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        remove_hooks(wrapped)  # does nothing without an engine
        _gathered.add(model)
        try:
            yield model
        finally:
            _gathered.discard(model)
            add_hooks(wrapped)


def _fits_whole(model: nn.Module) -> bool:
    """Whether the device of every process has room for all weights of ``model``; every process has to call this."""
    free = devices.free_memory()
    needed = sum(_size(weight) * weight.element_size() for weight in model.parameters())
    fits = free is None or needed <= _ROOM * free
    if distributed.is_available() and distributed.is_initialized():
        flag = torch.tensor(int(fits), device=devices.accelerator() or "cpu")
        distributed.all_reduce(flag, distributed.ReduceOp.MIN)
        fits = bool(flag)
    return fits


_ROOM = 0.8  # of free memory; keys and values of the questions need some of it


def is_sharded(model: nn.Module) -> bool:
    """Whether a forward pass of ``model`` needs weights that other processes hold."""
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return False
    return is_fsdp(model) or (model not in _gathered and is_by_zero3(model))


def is_fsdp(model: nn.Module) -> bool:
    """Whether FSDP, of either version, wraps ``model`` or a part of it."""
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return any(isinstance(module, (FSDPModule, FullyShardedDataParallel)) for module in model.modules())


def load_weights(model: nn.Module, kept: nn.Module | None) -> None:
    """Copy the weights of ``kept`` into ``model``, a model of the same kind; every process has to call this.

    Args:
        model: Whole, or sharded by ZeRO-3 or FSDP.
        kept: Whole, in the main process alone; or sharded by ZeRO-3 if ``model`` is.
    """
    if is_by_zero3(model):
        assert kept is not None
        for own, other in zip(model.parameters(), kept.parameters(), strict=True):
            with writable([own, other]):
                own.data.copy_(other.data)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    weights: Mapping[str, torch.Tensor] = {} if kept is None else kept.state_dict()
    several = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=several)
    set_model_state_dict(model, dict(weights), options=options)


@contextmanager
def writable(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Gather ``parameters`` if ZeRO-3 has sharded them; the main process's changes in the block reach all processes."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0):
        yield


def is_by_zero3(model: nn.Module) -> bool:
    """Whether ZeRO-3 has sharded the weights of ``model``."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


# Processes that share a sharded model have to make equally many calls, though each decodes other questions.


@contextmanager
def in_step(model: Any) -> Iterator[Any]:
    """``model`` for use in the block; if it is sharded, a process that finishes early calls it on until all have finished."""
    if not is_sharded(model):
        yield model
        return
    stepping = _InStep(model)
    yield stepping
    while stepping.anyone_calls(False):
        model(input_ids=torch.zeros((1, 1), dtype=torch.int64, device=stepping.device), use_cache=False)


class _InStep(torch.nn.Module):
    """Tells the other processes of each call."""

    def __init__(self, model: Any) -> None:
        """Wrap ``model``."""
        super().__init__()
        self.model, self.config = model, model.config
        self.device = next(model.parameters()).device

    def anyone_calls(self, calls: bool) -> bool:
        """Whether any process is about to call the model, as this one is if ``calls``. Every process has to ask."""
        flag = torch.tensor(int(calls), device=self.device)
        distributed.all_reduce(flag)
        return bool(flag)

    def forward(self, **arguments: Any) -> Any:
        """Call the model, which every other process does at the same time."""
        self.anyone_calls(True)
        return self.model(**arguments)


def frozen_parameters(model: nn.Module, modules: Sequence[str], *, adapter: bool = False) -> list[nn.Parameter]:
    """The weights of ``model`` that lie in ``modules``.

    Args:
        model: A model that learns in full.
        modules: Names of modules, as `weights_in` takes them.
        adapter: Whether an adapter is trained instead of the model.

    Raises:
        ConfigurationError: as `weights_in`.
    """
    weights = dict(model.named_parameters())
    frozen = weights_in(modules, weights, adapter=adapter)
    return [weight for name, weight in weights.items() if name in frozen]


def frozen_routers(model: nn.Module, train: bool, *, adapter: bool = False) -> list[nn.Parameter]:
    """The routers of a mixture of experts: weights of modules called `gate` or `router` beside `experts`, to be frozen.

    Args:
        model: The model that is trained, or on which an adapter is.
        train: Whether routers are trained; then none is returned.
        adapter: Whether an adapter is trained instead of the model.

    Raises:
        ConfigurationError: routers are to be trained, and there are none, or an adapter is trained.
    """
    found = []
    for module in model.modules():
        children = dict(module.named_children())
        if "experts" in children:
            found += [
                weight for name in ("gate", "router") if name in children for weight in children[name].parameters()
            ]
    if train and (adapter or not found):
        reason = (
            "an adapter is trained here, beside which all else is frozen" if adapter else "the model has no experts"
        )
        raise ConfigurationError(f"train_routers is true, and {reason}. Leave it out.")
    return [] if train or adapter else found


_SHOWN = 3  # names of weights in an error


def local_part(weight: torch.Tensor) -> torch.Tensor:
    """The part of a weight that this process holds, which is all of it unless ZeRO-3 or FSDP has sharded it."""
    part: Any = getattr(weight, "ds_tensor", weight)
    return part.to_local() if hasattr(part, "to_local") else part


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether no number in ``tensors`` is nan or infinite, as far as this process holds them."""
    # A sum is finite only if all of its terms are, and needs no memory.
    sums = [
        part.float().sum() if part.element_size() == 1 else part.sum(dtype=torch.float32)
        for part in (local_part(tensor).detach() for tensor in tensors)
        if part.is_floating_point() and not part.is_meta
    ]
    return not sums or bool(torch.stack([each.to(sums[0].device) for each in sums]).isfinite().all())


def narrow_saved(directory: Path) -> int:
    """Store the fp32 tensors in ``directory``'s safetensors files as bf16 where every number stays the same.

    These are frozen weights (`frozen_modules`) of a model that was published in bf16. `config.json` still says fp32, so that
    the model is loaded with the same numbers, and computes as before.

    Returns:
        The bytes that this saves.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    saved = 0
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            metadata, names = opened.metadata(), opened.keys()
            exact = {name for name in names if _loses_nothing(opened.get_tensor(name))}
            if not exact:
                continue
            tensors = {name: opened.get_tensor(name) for name in names}
        before = file.stat().st_size
        fresh = file.with_name(f".{file.name}.new")  # a run that is killed meanwhile leaves the old file
        narrow = {name: each.to(torch.bfloat16) if name in exact else each for name, each in tensors.items()}
        save_file(narrow, fresh, metadata)
        fresh.replace(file)
        saved += before - file.stat().st_size
    index = directory / "model.safetensors.index.json"
    if saved and index.is_file():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["metadata"]["total_size"] -= saved
        index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return saved


def _loses_nothing(tensor: torch.Tensor) -> bool:
    return tensor.dtype is torch.float32 and torch.equal(tensor.to(torch.bfloat16).float(), tensor)


def require_finite(model: torch.nn.Module, trained_only: bool = False) -> None:
    """Refuse weights that are nan or infinite: the model would answer nonsense without any error.

    Args:
        model: Whole, or sharded over processes, of which each checks its own part. Weights that bitsandbytes packed are left
            out, since their floats (`bnb_4bit_quant_storage`) are bytes of packed numbers.
        trained_only: Whether weights without a gradient are left out.

    Raises:
        ConfigurationError: a weight holds nan or an infinite number.
    """
    weights = [
        (name, each)
        for name, each in model.named_parameters()
        if (each.requires_grad or not trained_only) and getattr(each, "quant_state", None) is None
    ]
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
    """Refuse weights that are not exactly those of the model: missing ones would stay random without any error.

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


# Agreement of the processes of one run. If each decided by itself, such as on the last checkpoint, machines with disks of their
# own could decide differently, and some processes would wait for ever for the others.

_PATIENCE = timedelta(days=7)  # how long processes wait for the work of the main one


def from_main_process(value: Any) -> Any:
    """The main process's ``value``, on every process."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    shared = [value]
    if PartialState().num_processes > 1:
        broadcast_object_list(shared)
    return shared[0]


def from_every_process(value: Any) -> list[Any]:
    """The ``value`` of each process, in their order, on every process."""
    from accelerate import PartialState
    from accelerate.utils import gather_object

    return list(gather_object([value])) if PartialState().num_processes > 1 else [value]


def process_number() -> int:
    """The number of this process among those of the run."""
    from accelerate import PartialState

    return int(PartialState().process_index)


@contextmanager
def main_process_works() -> Iterator[bool]:
    """True in the main process, which works alone; the others wait at the end of the block, however long that takes.

    NCCL's watchdog would end a barrier after `ddp_timeout`, half an hour, so they wait on sockets, in a group of their own.
    Every process has to enter.
    """
    from accelerate import PartialState

    state = PartialState()
    if state.num_processes == 1:
        yield True
        return
    group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        yield state.is_main_process
    finally:
        distributed.barrier(group)
        distributed.destroy_process_group(group)


def require_shared(directory: Path, because: Sequence[str]) -> None:
    """Refuse an ``output_dir`` that is not the same directory for all processes, if that matters; all have to call this.

    Args:
        directory: The directory, which is created if it is missing.
        because: The settings that make other processes read the main one's files; empty if there are none.

    Raises:
        ConfigurationError: some process does not see what the main process writes.
    """
    from accelerate import PartialState

    state = PartialState()
    if state.num_processes == 1 or not because:
        return
    name = from_main_process(f".shared-{uuid.uuid4().hex}")
    if state.is_main_process:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()
    state.wait_for_everyone()
    seen = from_every_process((directory / name).is_file())
    if state.is_main_process:
        (directory / name).unlink()
    blind = [number for number, sees in enumerate(seen) if not sees]
    if blind:
        raise ConfigurationError(
            f"output_dir '{directory}' is not the same directory for all {len(seen)} processes: {len(blind)} of them (the "
            f"first is number {blind[0]}) do not see what the main process writes there, which {' and '.join(because)} would "
            "have them read. Name a directory on a disk that all nodes share, or leave these settings out "
            "(--resume_from_checkpoint false, --select_on none)."
        )
