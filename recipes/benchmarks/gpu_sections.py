"""The sections of gpu.py: each measures one thing and checks its limits; on a processor the same, with small models."""

from __future__ import annotations

import math
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_models import PEAKS, SHAPES, documents, random_llama, tokenizer, train_steps
from measuring import environment


class Section:
    """The checks, ratios and measurements of one section.

    Args:
        small: Whether it runs with small models on the processor.
        quick: Whether it leaves out long parts.
    """

    def __init__(self, small: bool, quick: bool) -> None:
        self.small, self.quick = small, quick
        self.device = torch.device("cpu" if small else "cuda")
        self.half = torch.bfloat16
        self._checks: list[dict[str, Any]] = []
        self._ratios: dict[str, float] = {}
        self._measurements: dict[str, Any] = {}

    def check(self, name: str, value: Any, ok: bool, limit: str) -> None:
        """Record whether ``value`` holds its ``limit``."""
        shown = float(f"{value:.4g}") if isinstance(value, float) else value
        self._checks.append({"name": name, "value": shown, "ok": bool(ok), "limit": limit})

    def on_gpu(self, name: str, value: Any, ok: bool, limit: str) -> None:
        """The same as `check` on a GPU; on a processor, which cannot hold the limit, ``value`` is only recorded."""
        if self.small:
            self.measure(name, value)
        else:
            self.check(name, value, ok, limit)

    def ratio(self, name: str, value: float) -> None:
        """Record the ratio of two values that were measured side by side."""
        self._ratios[name] = value

    def measure(self, name: str, value: Any) -> None:
        """Record ``value``."""
        self._measurements[name] = value

    def report(self) -> dict[str, Any]:
        """All records by kind."""
        return {"checks": self._checks, "ratios": self._ratios, "measurements": self._measurements}

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], repetitions: int = 3) -> float:
        """The shortest of several times of ``work``, after one to warm up."""
        best = math.inf
        for repetition in range(repetitions + 1):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            best = min(best, time.perf_counter() - started) if repetition else best
        return best


def machine(section: Section) -> None:
    """Versions, and the speed that the device reaches."""
    section.measure("versions", environment())
    side = 256 if section.small else 8192
    half = torch.float32 if section.small else section.half
    left, right = (torch.randn(side, side, device=section.device, dtype=half) for _ in range(2))
    section.measure("matmul_flops", 2 * side**3 / section.seconds(lambda: left @ right))
    block = torch.empty(2**20 if section.small else 2**31, dtype=torch.uint8, device=section.device)
    section.measure("copy_bytes_per_second", 2 * block.numel() / section.seconds(block.clone))
    if section.device.type == "cuda":
        section.measure("device", torch.cuda.get_device_name())
        section.measure("memory", torch.cuda.get_device_properties(0).total_memory)


def parity(section: Section) -> None:
    """The same numbers on the device as on the processor."""
    from kinject.evaluation import answer_questions
    from kinject.models import load_model
    from kinject.sampling import SamplingConfig
    from kinject.sampling.decoding import uniform

    devices = (torch.device("cpu"), section.device)
    texts, steps = documents(2 if section.small else 8), 3 if section.small else 20
    losses: dict[str, list[list[float]]] = {}
    norms: list[float] = []
    for bf16 in (False, True):
        losses[str(bf16)] = []
        for device in devices:
            loaded = load_model("nano-ar", dtype="float32")
            trained = train_steps(loaded.model, loaded.tokenizer, texts, steps, device=device, bf16=bf16)
            losses[str(bf16)].append(trained.losses)
            norms += [] if bf16 else [trained.gradient_norms[0]]
    one, other = losses["False"]
    section.check(
        "fp32 loss of the first step, apart", abs(one[0] - other[0]), abs(one[0] - other[0]) <= 1e-4, "<= 1e-4"
    )
    apart = abs(norms[0] - norms[1]) / norms[0]
    section.check("fp32 norm of the gradients, apart", apart, apart <= 1e-3, "<= 1e-3 of it")
    worst = max(abs(a - b) for a, b in zip(one, other, strict=True))
    section.check(f"fp32 loss over {steps} steps, apart", worst, worst <= 2e-2, "<= 2e-2")
    half = abs(losses["True"][0][0] - losses["True"][1][0])
    section.check("bf16 loss of the first step, apart", half, half <= 2e-2, "<= 2e-2")

    rows, places = torch.arange(8), torch.arange(12)[None].repeat(8, 1)
    noise = [uniform(rows.to(device), rows.to(device), places.to(device), 64).cpu() for device in devices]
    section.check("sampler's noise, bit for bit", torch.equal(*noise), torch.equal(*noise), "equal")
    questions = [each.question for each in known_questions(4 if section.small else 128)]
    for name, sampling in (("nano-ar", None), ("nano-diffusion", SamplingConfig.fast(24))):
        said = []
        for device in devices:
            loaded = load_model(name, dtype="float32")
            loaded.model.to(device)  # type: ignore[arg-type]
            said.append(
                answer_questions(loaded.model, loaded.tokenizer, questions, max_new_tokens=24, sampling=sampling)
            )
        same = sum(a == b for a, b in zip(*said, strict=True)) / len(questions)
        section.check(f"fp32 answers of {name}, equal", same, same >= 0.99, ">= 99 %")
    loaded = load_model("nano-ar", dtype="bfloat16")
    loaded.model.to(section.device)  # type: ignore[arg-type]
    batches = [
        answer_questions(loaded.model, loaded.tokenizer, questions, max_new_tokens=24, batch_size=size)
        for size in (1, 64)
    ]
    section.measure("bf16 answers alone and in a batch of 64, equal", sum(map(str.__eq__, *batches)) / len(questions))


def known_questions(count: int) -> Sequence[Any]:
    """Questions that nano-ar can answer."""
    from kinject.data import load_knowledge

    questions = load_knowledge("fictional:nano_population").questions
    return list({each.question: each for each in questions}.values())[:count]


@contextmanager
def watched(path: str, seen: list[str]) -> Iterator[None]:
    """Record in the block the device of the model with which the function at ``path`` is called."""
    from unittest import mock

    module, _, name = path.rpartition(".")
    import importlib

    original = getattr(importlib.import_module(module), name)

    def recording(model: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(model.device.type)
        return original(model, *args, **kwargs)

    with mock.patch(path, recording):
        yield


def devices(section: Section) -> None:
    """Asking, rehearsal, and measurements before training: each has to run on the device."""
    import kinject
    from kinject.commands.recipe import train
    from kinject.models.devices import described

    loaded = kinject.load("nano-ar")
    section.measure("kinject.load", described(loaded.model))
    kind = section.device.type
    section.on_gpu("kinject.load puts a model on", loaded.model.device.type, loaded.model.device.type == kind, kind)
    seen: list[str] = []
    paths = ["kinject.trainers.rehearsal.own_answers", "kinject.evaluation.retention.negative_log_likelihood"]
    with tempfile.TemporaryDirectory() as directory, watched(paths[0], seen), watched(paths[1], seen):
        options = "--model_name_or_path nano-ar --documents fictional:nano --size 4 --rehearsal 0.5 --max_steps 2 "
        options += "--evaluations 0 --max_new_tokens 8 --report_to none --save_strategy no --disable_tqdm true "
        options += "--use_cpu true " if section.small else ""
        train("masked", [*options.split(), "--output_dir", directory])
    section.check(
        "rehearsal and retention ran on", sorted(set(seen)), seen != [] and set(seen) == {kind}, f"{kind} only"
    )
    section.check("times that they were seen", len(seen), len(seen) >= 3, ">= 3")


def kernels(section: Section) -> None:
    """The attention kernels of a step and of an answer, by the profiler."""
    from torch.profiler import ProfilerActivity, profile

    from kinject.evaluation import answer_questions

    activities = [ProfilerActivity.CPU, *([] if section.small else [ProfilerActivity.CUDA])]
    shape, texts = SHAPES["tiny" if section.small else "1b"], documents(2 if section.small else 8)
    names: dict[str, list[str]] = {}
    for prompt in (None, "You are a careful clerk of a small town, and know all people in it and what they did."):
        model = random_llama(shape, section.device, torch.float32)
        with profile(activities=activities) as seen:
            train_steps(
                model, tokenizer(), texts, 2, device=section.device, bf16=not section.small, system_prompt=prompt
            )
        names["a step" if prompt is None else "with a shared beginning"] = attention(seen)
    model = random_llama(shape, section.device, torch.float32 if section.small else section.half)
    with profile(activities=activities) as seen:
        answer_questions(model, tokenizer(), ["Who?", "Who is it that lives there?"], max_new_tokens=4)
    names["an answer"] = attention(seen)
    section.measure("attention", names)
    for name, found in names.items():
        math_kernel = any("math" in each for each in found)
        section.on_gpu(
            f"attention of {name} without the math kernel", found, not math_kernel, "flash, efficient or cudnn"
        )
    flash = any("flash" in each for each in names["a step"])
    section.check("a step takes FlashAttention", names["a step"], flash, "flash")


def attention(seen: Any) -> list[str]:
    """The attention functions in a profile."""
    return sorted({each.key for each in seen.key_averages() if "attention" in each.key and "aten::" in each.key})


def step(section: Section) -> None:
    """A step of each kind of training, against the public loop and trl on the same rows."""
    cases = ["tiny full"] if section.small else ["1b full"]
    if not section.quick:
        cases += ["8b lora", "8b qlora", "8b full 8-bit"]
    elif section.small:
        cases += ["tiny lora"]
    rows = 2 if section.small else 64
    warm, timed = (1, 1) if section.small else (3, 8)
    for case in cases:
        size, kind, *more = case.split()
        found: dict[str, dict[str, Any]] = {}
        for way in ("public", "trl", "shipped", "tuned"):
            if way == "public" and kind == "qlora":
                continue
            try:
                model = random_llama(
                    SHAPES[size], section.device, torch.float32 if kind == "full" and not more else section.half
                )
                trained = train_steps(
                    model,
                    tokenizer(),
                    documents(rows),
                    warm + timed,
                    device=section.device,
                    bf16=not section.small,
                    way=way,
                    kind=kind,
                    optimizer="adamw_bnb_8bit" if more else "adamw_torch_fused",
                    batch_size=rows,
                    warm=warm,
                )
            except (torch.OutOfMemoryError, ImportError) as error:
                section.measure(f"{case}, {way}", f"not measured: {str(error).splitlines()[0]}")
                continue
            finally:
                model = None
                if section.device.type == "cuda":
                    torch.cuda.empty_cache()
            peak = PEAKS.get(gpu_name())
            share = trained.tokens_per_second * trained.flops_per_token / peak if peak else None
            found[way] = {
                "tokens_per_second": trained.tokens_per_second,
                "share_of_peak": share,
                "peak_memory": trained.peak_memory,
                "waits_a_step": trained.waits,
            }
        section.measure(case, found)
        best = max((found[way]["tokens_per_second"] for way in ("shipped", "tuned") if way in found), default=0.0)
        for other, least in (("trl", 1.3), ("public", 2.0)):
            if best and other in found:
                ratio = best / found[other]["tokens_per_second"]
                section.ratio(f"{case.replace(' ', '_')}_tokens_per_second_vs_{other}", ratio)
                section.on_gpu(f"{case}: tokens/s against {other}", ratio, ratio >= least, f">= {least}x")
        share = found.get("tuned", {}).get("share_of_peak")
        if case == "8b full 8-bit" and share is not None:
            section.on_gpu(f"{case}: share of the bf16 peak", share, share >= 0.4, ">= 40 %")


def gpu_name() -> str:
    """The device's name, as `PEAKS` has it."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((each for each in PEAKS if each in name), "")


def compile(section: Section) -> None:
    """Compiled steps and Liger's kernels over thirty lengths: how often they are compiled again, and the same loss."""
    from transformers.utils import is_liger_kernel_available

    shape = SHAPES["tiny" if section.small else "1b"]
    lengths = documents(3 if section.small else 30, spread=True)

    def steps(**settings: Any) -> Any:
        model = random_llama(shape, section.device, torch.float32)
        return train_steps(
            model, tokenizer(), lengths, len(lengths), device=section.device, batch_size=1, settings=settings
        )

    plain = steps()
    ways: dict[str, dict[str, Any]] = {"compiled": {"torch_compile": True}}
    if section.small:  # a C++ compiler may be missing; the graphs are the same without one
        ways["compiled"]["torch_compile_backend"] = "eager"
    elif is_liger_kernel_available():
        ways["liger"] = {"use_liger_kernel": True}
    for name, settings in ways.items():
        torch._dynamo.utils.counters.clear()
        found = steps(**settings)
        apart = max(abs(a - b) for a, b in zip(plain.losses, found.losses, strict=True))
        section.check(f"{name}: loss over {len(lengths)} lengths, apart", apart, apart <= 1e-3, "<= 1e-3")
        section.measure(f"{name}: seconds", [plain.seconds, found.seconds])
        if name == "compiled":
            graphs = int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
            section.on_gpu("graphs that were compiled", graphs, graphs <= 40, "<= 40")


def answering(section: Section) -> None:
    """Answers of a random model, some of which end early, against transformers' own generation."""
    from transformers import GenerationConfig

    from kinject.evaluation.asking import evaluating
    from kinject.evaluation.generating import generate_answers, until_end

    small = section.small
    model: Any = random_llama(
        SHAPES["tiny" if small else "8b"], section.device, torch.float32 if small else section.half
    )
    count, new = (8, 8) if small else (256, 64)
    generator = torch.Generator().manual_seed(0)
    prompts = [
        torch.randint(10, 900, (int(length),), generator=generator).tolist()
        for length in torch.randint(20, 60, (count,), generator=generator)
    ]
    ends = list(range(0, model.config.vocab_size, 50))  # two of a hundred tokens end an answer
    said: dict[str, list[list[int]]] = {}
    config = GenerationConfig(do_sample=False, max_new_tokens=new, eos_token_id=ends, pad_token_id=0, use_cache=True)

    def ours(batch_size: int) -> list[list[int]]:
        return generate_answers(model, prompts, end_ids=ends, pad_id=0, max_new_tokens=new, batch_size=batch_size)

    def theirs() -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(each)) + each for each in prompts], device=section.device)
        mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in prompts], device=section.device)
        written = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:].tolist()
        return [until_end(each, ends) for each in written]

    def continuous() -> list[list[int]]:
        found = model.generate_batch(inputs=prompts, generation_config=config)
        return [
            until_end(found[key].generated_tokens, ends)
            for key in sorted(found, key=lambda key: int(key.rpartition("_")[2]))
        ]

    ways: dict[str, Callable[[], list[list[int]]]] = {
        "ours, 32": lambda: ours(32),
        "ours, 256": lambda: ours(256),
        "generate": theirs,
    }
    if not small:
        ways["generate_batch"] = continuous
    seconds: dict[str, float] = {}

    def ask(name: str) -> None:
        said[name] = ways[name]()

    with evaluating(model):
        for name in ways:
            try:
                seconds[name] = section.seconds(partial(ask, name), 1)
            except (RuntimeError, ValueError, AttributeError, ImportError) as error:
                section.measure(name, f"not measured: {str(error).splitlines()[0]}")
    section.measure("seconds", seconds)
    same = {
        name: sum(a == b for a, b in zip(said["generate"], each, strict=True)) / count for name, each in said.items()
    }
    section.measure("same answers as generate", same)
    section.ratio("answering_vs_generate", seconds["generate"] / seconds["ours, 256"])
    section.on_gpu(
        "answers against generate",
        seconds["generate"] / seconds["ours, 256"],
        seconds["generate"] >= 2 * seconds["ours, 256"],
        ">= 2x",
    )
    if small:
        section.check("answers as generate's", same["ours, 256"], same["ours, 256"] == 1, "all")
    if not section.quick:
        model.float()
        for name, outer in (("inside", False), ("outer", True)):
            forward = model.forward
            model.forward = torch.autocast(section.device.type, torch.bfloat16)(forward)
            with evaluating(model), torch.autocast(section.device.type, torch.bfloat16, enabled=outer):
                section.measure(f"seconds with fp32 weights, autocast {name}", section.seconds(lambda: ours(256), 1))
            model.forward = forward


def sampler(section: Section) -> None:
    """A masked diffusion model of LLaDA's shape: how much time is spent outside its forward passes."""
    from kinject.models import to_diffusion
    from kinject.sampling import SamplingConfig, sample

    small = section.small
    model: Any = random_llama(
        SHAPES["tiny" if small else "llada-8b"], section.device, torch.float32 if small else section.half
    )
    to_diffusion(model, model.config.vocab_size - 1, shifted_logits=False)
    model.eval()
    inside: list[float] = []
    forward = model.forward

    def timed(*args: Any, **kwargs: Any) -> Any:
        section.wait()
        started = time.perf_counter()
        found = forward(*args, **kwargs)
        section.wait()
        inside.append(time.perf_counter() - started)
        return found

    prompts = [list(range(10, 40))] * (2 if small else 16)
    length = 8 if small else 64
    for name, config in (("fast", SamplingConfig.fast(length)), ("published", SamplingConfig.published(length))):
        model.forward = timed
        with torch.no_grad():
            sample(model, prompts, config, end_ids=[1], batch_size=len(prompts))  # warms up
            inside.clear()
            section.wait()
            started = time.perf_counter()
            sample(model, prompts, config, end_ids=[1], batch_size=len(prompts))
            section.wait()
        whole = time.perf_counter() - started
        model.forward = forward
        outside = 1 - sum(inside) / whole
        section.measure(f"{name}: seconds", whole)
        section.on_gpu(f"{name}: time outside forward passes", outside, outside < 0.1, "< 10 %")


def inject(section: Section) -> None:
    """A whole run on nano: stopped by a signal and resumed, it has to end as one that was not stopped."""
    from transformers import TrainerCallback

    from kinject.commands.recipe import train
    from kinject.errors import RunStopped
    from kinject.trainers import document_trainer

    def run(directory: str, *more: str) -> dict[str, Any]:
        options = (
            "--model_name_or_path nano-ar --documents fictional:nano --size 4 --num_train_epochs 8 --evaluations 2 "
        )
        options += (
            "--max_new_tokens 16 --select_on test --per_device_train_batch_size 2 --learning_rate 2e-3 --bf16 false "
        )
        options += "--retention false --save_steps 4 --logging_steps 1 --report_to none --disable_tqdm true "
        options += "--use_cpu true " if section.small else ""
        found: dict[str, Any] = train("masked", [*options.split(), "--output_dir", directory, *more])
        return found

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 6:
                signal.raise_signal(signal.SIGTERM)

    original = document_trainer.DocumentSFTTrainer.train

    def stopped(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        trainer.add_callback(Stop())
        return original(trainer, *args, **kwargs)

    with tempfile.TemporaryDirectory() as directory:
        whole = run(str(Path(directory) / "whole"))
        trainer_class: Any = document_trainer.DocumentSFTTrainer
        trainer_class.train = stopped
        try:
            run(str(Path(directory) / "killed"))
            said = "went on"
        except RunStopped as error:
            said = str(error)
        finally:
            trainer_class.train = original
        section.check("told to stop, it", said, "stopped at step 6" in said, "saves a checkpoint and stops")
        resumed = run(str(Path(directory) / "killed"), "--resume_from_checkpoint", "true")
        workers = run(str(Path(directory) / "workers"), "--dataloader_num_workers", "1")
    histories = [[(each["step"], each["loss"]) for each in found["history"]] for found in (whole, resumed, workers)]
    apart = max(abs(a[1] - b[1]) for a, b in zip(histories[0], histories[1], strict=True))
    section.check("loss of the resumed run, apart", apart, apart <= 1e-4, "<= 1e-4")
    apart = max(abs(a[1] - b[1]) for a, b in zip(histories[0], histories[2], strict=True))
    section.check("loss with a worker that draws the masks, apart", apart, apart <= 1e-4, "<= 1e-4")
    section.check(
        "answers of the resumed run", resumed["after"]["forward"]["n"], resumed["answers"] == whole["answers"], "equal"
    )


def warnings_of(work: Callable[[], Any]) -> int:
    """How often ``work`` waits for the GPU, as counted by torch."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught)
