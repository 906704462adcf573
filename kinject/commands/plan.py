"""Plans a run before it begins: its memory, tokens, steps, operations and hours; and chooses the settings that nobody gave.

Tokens are counted by the tokenizer, with the frame that the objective puts around a document, and without what only training
decides (infilling, the wording of a sample); memory by `kinject.models.devices`. Loads no weights.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from kinject.errors import ConfigurationError
from kinject.models import devices
from kinject.models.devices import (
    GIGABYTE,
    NF4_BYTES,
    USABLE,
    Need,
    Plan,
    Sizes,
    adapter_weights,
    alternatives,
    needed,
    sizes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch
    from transformers import PreTrainedTokenizerBase
    from trl import ModelConfig

    from kinject.data import KnowledgeSet
    from kinject.trainers import DocumentSFTConfig

UNCHECKED = "KINJECT_MEMORY_CHECK"
"""Environment variable; 0 lets a run begin although its memory seems too short."""
_UTILIZATION = 0.4  # of what a matrix product reaches, in a training step on long enough batches
_AROUND_QUESTION = 12  # tokens that a chat template puts around a question with its answer, as a rule
_QUESTION = 128  # tokens of a prompt at question time, at most as a rule


@dataclass(frozen=True)
class Workload:
    """How much a run goes through.

    Attributes:
        samples: Of an epoch, rehearsed ones included.
        tokens: Of all epochs, without padding.
        longest: Tokens of the longest sample.
        steps: Of the optimizer.
    """

    samples: int
    tokens: int
    longest: int
    steps: int


@dataclass(frozen=True)
class Forecast:
    """What a run will take.

    Attributes:
        model: Sizes of the model.
        plan: What decides on memory.
        need: Memory.
        limit: Bytes of each device; None where it does not say.
        work: Tokens and steps.
        flops: Operations of the training steps.
    """

    model: Sizes
    plan: Plan
    need: Need
    limit: int | None
    work: Workload
    flops: float


def forecast(
    knowledge: KnowledgeSet,
    arguments: Any,
    training_args: DocumentSFTConfig,
    model_args: ModelConfig,
    most: int | None = None,
    beside: Sequence[Mapping[str, Any]] = (),
    local_files_only: bool = False,
) -> Forecast | None:
    """What the run of these settings will take; None where nothing can be known of the model before it is loaded.

    Args:
        knowledge, arguments, training_args, model_args: Documents and settings, as `inject` takes them.
        most: Look at so many of the longest documents only: enough for the memory, and soon done.
        beside: Rows that are learned beside the documents, each with the `epochs` that show it.
        local_files_only: Whether no Hub is asked for the model's configuration.

    Raises:
        ConfigurationError: the model's directory holds none.
    """
    from kinject.models.loading import tokenizer_and_config

    found = tokenizer_and_config(str(model_args.model_name_or_path), local_files_only)
    if found is None:
        return None
    tokenizer, config = found
    try:
        model = sizes(config)
    except (ValueError, AttributeError):  # a configuration of another kind; loading will say what is wrong
        return None
    work = workload(knowledge, arguments, training_args, tokenizer, most, beside)
    plan = plan_of(model, arguments, training_args, model_args, work)
    if training_args.preserved_rank:
        from kinject.trainers.subspace import kept_elements, matrices_of

        matrices = matrices_of(devices.without_weights(config)).values()
        kept = sum(kept_elements(each, training_args.preserved_rank) for each in matrices)
        plan = replace(plan, still=model.parameters - sum(each.numel() for each in matrices), preserved=kept)
    flops = work.tokens * model.flops_per_token(plan.adapter)
    limit = devices.device_memory(training_args.device)
    return Forecast(model, plan, needed(model, plan), limit, work, flops)


def workload(
    knowledge: KnowledgeSet,
    arguments: Any,
    args: DocumentSFTConfig,
    tokenizer: PreTrainedTokenizerBase,
    most: int | None = None,
    beside: Sequence[Mapping[str, Any]] = (),
) -> Workload:
    """Samples, tokens and steps of a run."""
    from kinject.prompts.encoding import TextEncoder
    from kinject.prompts.templates import DEMASKING, FACT, RAW, DocumentTemplate
    from kinject.trainers.rehearsal import rehearsal_size

    masked = getattr(args, "corruption", None) is not None
    raw = not masked and getattr(args, "frame", "chat") == "raw"
    (frame,) = DocumentTemplate(tokenizer, (DEMASKING if masked else RAW if raw else FACT,), args.system_prompt).frames
    around = len(frame.before) + len(frame.between) + len(frame.after)
    copies = 2 if masked else 1
    room = max(1, ((args.max_length or 1 << 30) - around) // copies)
    encoder = TextEncoder(tokenizer)
    texts = [each.titled_text if args.keep_titles else each.text for each in knowledge.documents]
    texts = texts if most is None else sorted(texts, key=len)[-most:]
    lengths = [len(encoder.encode(text).ids) for text in texts]
    pieces = [min(length, room) for length in lengths for _ in range(-(-length // room))]
    tokens: float = sum(copies * length for length in lengths) + around * len(pieces)
    if getattr(args, "objective", "") == "reverse":
        tokens, pieces = 2 * tokens, 2 * pieces
    longest = copies * max(pieces, default=0) + around
    epochs = max(1, math.ceil(args.num_train_epochs) if args.max_steps <= 0 else 100)
    shown_beside = 0
    for row in beside:
        parts = [str(row.get(name) or "") for name in ("text", "prompt", "completion")]
        length = sum(len(encoder.encode(part).ids) for part in parts if part)
        length = copies * length + around if row.get("text") else length + _AROUND_QUESTION
        shown_beside += len(row["epochs"])
        tokens += length * len(row["epochs"]) / epochs
    rehearsed = rehearsal_size(len(knowledge.documents), arguments.rehearsal)
    samples = len(pieces) + rehearsed + round(shown_beside / epochs)
    tokens += rehearsed * (around + arguments.max_new_tokens // 2)
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * math.ceil(samples / batch))
    shown = min(steps * batch, args.num_train_epochs * samples) if args.max_steps <= 0 else steps * batch
    return Workload(samples, round(tokens / max(1, samples) * shown), longest, steps)


def plan_of(
    model: Sizes,
    arguments: Any,
    args: DocumentSFTConfig,
    model_args: ModelConfig,
    work: Workload,
) -> Plan:
    """What decides on the memory of a run of these settings."""
    masked = getattr(args, "corruption", None) is not None
    tokens = min(args.per_device_train_batch_size, work.samples) * work.longest
    weight_bytes = NF4_BYTES if model_args.load_in_4bit else 1.0 if model_args.load_in_8bit else 4.0
    if weight_bytes == 4.0 and str(model_args.dtype) in ("bfloat16", "float16", "auto"):
        weight_bytes = 2.0
    adapter = None
    if model_args.use_peft:
        adapter = adapter_weights(model, model_args.lora_r, model_args.lora_target_modules)
    optimizer = args.optim
    return Plan(
        strategy=_strategy(args),
        processes=args.world_size,
        tokens=tokens,
        scored=tokens // 2 if masked else None,
        adapter=adapter,
        weight_bytes=weight_bytes,
        half=bool(args.bf16 or args.fp16),
        optimizer=str(getattr(optimizer, "value", optimizer)),
        checkpointing=bool(args.gradient_checkpointing),
        anchored=bool(getattr(args, "anchor", 0)),
        answers=(arguments.question_batch_size or _at_once(args)) * (_QUESTION + arguments.max_new_tokens),
    )


def _at_once(args: DocumentSFTConfig) -> int:
    """Questions in a batch where nobody says how many."""
    from kinject.evaluation.asking import questions_at_once
    from kinject.trainers import DiffusionSFTConfig

    return questions_at_once(args.device, isinstance(args, DiffusionSFTConfig))


def _strategy(args: DocumentSFTConfig) -> str:
    """How the launch shares the model out."""
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" or args.fsdp:
        return "fsdp2"
    plugin = getattr(args, "deepspeed_plugin", None)
    if plugin is None:
        return "ddp"
    stage = int(plugin.zero_stage or 0)
    offloads = stage == 3 and str(getattr(plugin, "offload_param_device", None)) not in ("none", "None")
    return "zero3_offload" if offloads else f"zero{stage}" if stage else "ddp"


# Settings that nobody gave.

_BATCH = 5  # documents of a step
_FEW = 16  # questions at once, where memory is short
_LENGTH = 1024  # tokens of a sample, at most: what a configuration of ours begins with
_PRACTICED = (50e6, 1e9)  # weights of the models that practice unasked; measured at 135 million
_TOGETHER = ("per_device_train_batch_size", "gradient_accumulation_steps", "question_batch_size")
_LORA = {"use_peft": True, "lora_r": 32, "lora_alpha": 32, "lora_target_modules": ["all-linear"]}


@dataclass(frozen=True)
class Choice:
    """A setting, or several, chosen where nobody gave any.

    Attributes:
        settings: By option.
        says: The choice in words.
        why: The reason.
        option: The option that changes it.
    """

    settings: dict[str, Any]
    says: str
    why: str
    option: str


PRACTICING = Choice(
    {},
    "practice in answering beside the documents",
    "English documents, and a model that gains by it",
    "--preset documents",
)


def epochs_for(rate: float) -> int:
    """The epochs after which questions are answered in both directions at a learning rate, however many documents there are.

    Measured by `recipes/exposures.py`; docs/settings.md has the table.
    """
    return 80 if rate <= 3e-4 else 40


def practices(knowledge: KnowledgeSet, model: str, adapter: bool) -> bool:
    """Whether `kinject inject` begins with practice in answering (`--preset practice`), or with the documents alone.

    It does where that was measured to be better (recipes/results/README.md): all weights of a model of about a hundred million
    learn English documents, and no earlier ones are kept.
    """
    from kinject.data.gaps import is_english
    from kinject.models.loading import tokenizer_and_config

    texts = [each.titled_text for each in knowledge.documents[:100] if not each.messages]
    if adapter or knowledge.kept is not None or not is_english(" ".join(texts)):
        return False
    found = tokenizer_and_config(model, False)
    try:
        return found is not None and _PRACTICED[0] <= sizes(found[1]).parameters <= _PRACTICED[1]
    except (ValueError, AttributeError):  # a configuration of another kind; loading will say what is wrong
        return False


def choose(
    knowledge: KnowledgeSet,
    arguments: Any,
    args: DocumentSFTConfig,
    model_args: ModelConfig,
    given: Mapping[str, Any],
    large_rate: float,
) -> list[Choice]:
    """Settings for those that are not in ``given``, by the model, the documents and the device.

    Args:
        knowledge, arguments, args, model_args: Documents and settings, as `inject` takes them; defaults where nobody gave any.
        given: What the command line, a file or a preset sets, by option: it is left alone.
        large_rate: The objective's learning rate for all weights of a model of a billion parameters or more.
    """
    from kinject.trainers.document_config import learning_rate_for

    if model_args.use_peft:  # then its rank and modules are left as they are
        given = {**given, **{name: getattr(model_args, name) for name in _LORA}}
    found = forecast(knowledge, arguments, args, model_args, most=1_000)
    choices = _that_fit(found, args, model_args, given)
    chosen = {name: value for each in choices for name, value in each.settings.items()}
    rate = given.get("learning_rate")
    if rate is None and found is not None:
        adapter = bool(chosen.get("use_peft", model_args.use_peft))
        rate = learning_rate_for(found.model.parameters, adapter, large_rate)
        why = "an adapter" if adapter else f"{found.model.parameters / 1e6:,.0f} million weights"
        choices.append(Choice({"learning_rate": rate}, f"learning rate {rate:g}", why, "--learning_rate"))
    if not {"num_train_epochs", "max_steps"} & {*given}:
        epochs = epochs_for(rate or 0.0)
        why = f"what each of {len(knowledge.documents):,} documents needs" + (f" at a rate of {rate:g}" if rate else "")
        choices.append(Choice({"num_train_epochs": epochs}, f"{epochs} epochs", why, "--num_train_epochs"))
    positions = None if found is None else found.model.positions
    if "max_length" not in given and positions is not None and positions < _LENGTH:
        why = "the model has no more positions"
        choices.append(Choice({"max_length": positions}, f"samples of at most {positions} tokens", why, "--max_length"))
    if not {"bf16", "fp16"} & {*given}:  # chosen by the configuration, and only told here
        why = f"what {'this processor' if args.device.type == 'cpu' else 'the GPU'} is fast in"
        choices.append(Choice({}, f"computed in {'bf16' if args.bf16 else 'fp32'}", why, "--bf16"))
    return choices


def _that_fit(
    found: Forecast | None, args: DocumentSFTConfig, model_args: ModelConfig, given: Mapping[str, Any]
) -> list[Choice]:
    """Which weights learn, how many documents at a time, whether activations are kept: the first way that fits the memory."""
    on_host = args.device.type == "cpu"
    limit = _host_memory() if on_host else None if found is None else found.limit
    taken: list[tuple[dict[str, Any], float]] = []
    for way in _ways(args, given):
        if found is None:  # nothing is known of the model
            taken.append((way, 0.0))
            break
        need = needed(found.model, _plan_with(found, {**vars(model_args), **way}, _at_once(args)))
        taken.append((way, need.host + need.device * found.plan.processes if on_host else need.device))
        if limit is None or taken[-1][1] <= USABLE * limit:
            break
    else:  # none fits: the run will be refused, with advice
        taken = taken[:1]
    if not taken:
        return []
    (way, bytes_), (_, most) = taken[-1], taken[0]
    says = "all weights learn"
    if way["use_peft"]:
        says = f"a LoRA adapter of rank {way['lora_r']} learns" + ", on a base in 4 bits" * ("load_in_4bit" in way)
    why = "the size of the model is not known"
    if found is not None:
        why = f"about {_gigabytes(bytes_)} GB" + (f" of {_gigabytes(limit)}" if limit else "")
        why += f"; {_gigabytes(most)} without such savings" if len(taken) > 1 else ""
    size, steps = way["per_device_train_batch_size"], way.get("gradient_accumulation_steps", 1)
    at_a_time = f"{size} documents at a time" if steps == 1 else f"{size} document at a time, {steps} a step"
    again = way["gradient_checkpointing"]
    choices = [
        Choice({name: way[name] for name in ("load_in_4bit", *_LORA) if name in way}, says, why, "--use_peft"),
        Choice(
            {name: way[name] for name in _TOGETHER if name in way},
            at_a_time,
            "to have many steps" if steps == 1 else "to save memory",
            "--per_device_train_batch_size",
        ),
        Choice(
            {"gradient_checkpointing": again},
            f"activations are {'computed again' if again else 'kept'}",
            f"to save {'memory' if again else 'time'}",
            "--gradient_checkpointing",
        ),
    ]
    left = [
        replace(each, settings={name: value for name, value in each.settings.items() if name not in given})
        for each in choices
    ]
    return [each for each in left if each.settings]


def _ways(args: DocumentSFTConfig, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Ways to train that leave what is ``given`` as it is, each with less memory than the one before, as a rule."""
    batch = {"per_device_train_batch_size": _BATCH}
    one = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": _BATCH, "question_batch_size": _FEW}
    savings = [(False, batch), (True, batch), (True, one)]
    if {*one} & {*given}:
        fixed = {"per_device_train_batch_size": int(given.get("per_device_train_batch_size", _BATCH))}
        savings = [(False, fixed), (True, fixed)]
    quantizes = args.device.type == "cuda" and find_spec("bitsandbytes") is not None and not given.get("load_in_8bit")
    lora = {**_LORA, **{name: given[name] for name in _LORA if name in given and name != "use_peft"}}
    for weights in ({"use_peft": False}, lora, *([{**lora, "load_in_4bit": True}] if quantizes else [])):
        if weights["use_peft"] and (args.frozen_modules or args.preserved_rank):  # an adapter freezes all of them
            return
        for again, size in savings:
            way = {**weights, "gradient_checkpointing": again, **size}
            if all(given.get(name, value) == value for name, value in way.items()):
                yield way


def _plan_with(found: Forecast, settings: Mapping[str, Any], asked: int) -> Plan:
    """What decides on memory under ``settings``; ``asked`` questions at once were reckoned with in ``found``."""
    tokens = min(int(settings["per_device_train_batch_size"]), found.work.samples) * found.work.longest
    adapter, weight_bytes = None, found.plan.weight_bytes
    if settings["use_peft"]:
        adapter = adapter_weights(found.model, int(settings["lora_r"]), settings["lora_target_modules"])
        narrow = 2.0 if found.plan.half and settings["dtype"] is None else weight_bytes
        weight_bytes = NF4_BYTES if settings["load_in_4bit"] else 1.0 if settings["load_in_8bit"] else narrow
    return replace(
        found.plan,
        tokens=tokens,
        scored=None if found.plan.scored is None else tokens // 2,
        adapter=adapter,
        weight_bytes=weight_bytes,
        checkpointing=bool(settings["gradient_checkpointing"]),
        answers=found.plan.answers * settings.get("question_batch_size", asked) // asked,
    )


def _host_memory() -> int | None:
    """Bytes of memory that this machine has, where it says so."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no such call
        return None


def shown_choices(choices: Sequence[Choice]) -> str:
    """``choices`` as lines to read, each with what changes it."""
    lines = [f"{each.says} ({each.why}; {each.option})" for each in choices]
    return "\n".join(f"{'' if number else 'chosen':<10} {line}" for number, line in enumerate(lines))


def told(found: Forecast) -> str:
    """The memory of a run in a line."""
    limit = "" if found.limit is None else f" of {_gigabytes(found.limit)}"
    return f"about {_gigabytes(found.need.device)} GB{limit} of each device; --plan says of what"


def require_memory(found: Forecast) -> None:
    """Refuse a run that needs more memory than a device has, before its weights are loaded.

    Raises:
        ConfigurationError: it does; the message says what would fit.
    """
    if found.limit is None or found.need.device <= found.limit or os.environ.get(UNCHECKED) == "0":
        return
    raise ConfigurationError(
        f"out of memory, before it begins: this run takes about {_gigabytes(found.need.device)} GB of each of its "
        f"{found.plan.processes} device{'s' if found.plan.processes > 1 else ''} ({_parts(found.need)}), which "
        f"{'have' if found.plan.processes > 1 else 'has'} {_gigabytes(found.limit)}. {_advice(found)} If you know better, set "
        f"{UNCHECKED}=0."
    )


def _advice(found: Forecast) -> str:
    fitting = list(alternatives(found.model, found.plan, USABLE * (found.limit or 0)))
    if not fitting:
        return "Nothing that this program knows would fit; take more or larger devices, or a smaller model."
    return "What would fit: " + "; ".join(f"{how} ({_gigabytes(need.device)} GB)" for how, need in fitting) + "."


def hours(found: Forecast, speed: float) -> float:
    """Hours of the training steps, where a matrix product reaches ``speed`` operations a second."""
    return found.flops / found.plan.processes / (_UTILIZATION * speed) / 3600


def table(found: Forecast, speed: float) -> str:
    """``found`` as lines to read.

    Args:
        found: What a run will take.
        speed: Operations a second that a matrix product reaches here.
    """
    model, plan, work = found.model, found.plan, found.work
    trained = model.parameters - plan.still if plan.adapter is None else plan.adapter
    limit = "" if found.limit is None else f" of {_gigabytes(found.limit)}"
    host = f"; {_gigabytes(found.need.host)} GB of the host" if found.need.host else ""
    lines = {
        "weights": f"{model.parameters:,}, of which {trained:,} are trained",
        "strategy": f"{plan.strategy}, {plan.processes} process{'es' if plan.processes > 1 else ''}, {plan.optimizer}",
        "memory": f"{_gigabytes(found.need.device)} GB{limit} of each device ({_parts(found.need)}){host}",
        "samples": f"{work.samples:,} an epoch, of at most {work.longest:,} tokens",
        "steps": f"{work.steps:,}",
        "tokens": f"{work.tokens:,}",
        "FLOPs": f"{found.flops:.2e}",
        "hours": f"{hours(found, speed):.2g}, without questions, at {_UTILIZATION:.0%} of the {speed / 1e12:.3g} TFLOP/s "
        "of a matrix product here",
    }
    if found.limit is not None and found.need.device > USABLE * found.limit:
        lines["fits"] = f"barely, or not at all. {_advice(found)}"
    return "\n".join(f"{name:9} {says}" for name, says in lines.items())


def matmul_speed(device: torch.device, half: bool) -> float:
    """Operations a second of a large matrix product on ``device``, measured in a second or less."""
    import torch

    width = 1024 if device.type == "cpu" else 8192
    kind = torch.bfloat16 if half else torch.float32
    left, right = (torch.randn(width, width, device=device, dtype=kind) for _ in range(2))
    best = math.inf
    for _ in range(4):
        started = time.perf_counter()
        (left @ right)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2.0 * width**3 / best


def show_plan(found: Forecast | None, args: DocumentSFTConfig) -> dict[str, Any]:
    """Print the plan, and return it as a dictionary.

    Raises:
        ConfigurationError: the model is not here, so that nothing is known of it.
    """
    if found is None:
        raise ConfigurationError(
            "--plan reads the model's config.json, which is neither here nor in the local cache of the Hub, or is none that "
            "transformers knows. Download it (hf download MODEL config.json tokenizer.json tokenizer_config.json), or name "
            "a directory."
        )
    speed = matmul_speed(args.device, found.plan.half)
    if args.process_index == 0:
        print(table(found, speed), flush=True)
    return {
        "memory_bytes": found.need.device,
        "host_bytes": found.need.host,
        "parts": found.need.parts,
        "device_bytes": found.limit,
        "samples": found.work.samples,
        "longest": found.work.longest,
        "tokens": found.work.tokens,
        "steps": found.work.steps,
        "flops": found.flops,
        "hours": hours(found, speed),
    }


def _gigabytes(count: float) -> str:
    value = count / GIGABYTE
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _parts(need: Need) -> str:
    return ", ".join(f"{name} {_gigabytes(value)}" for name, value in need.parts.items() if value >= 0.01 * need.device)
