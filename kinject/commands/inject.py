"""A run, from arguments to `results.json`: load documents and model, train, ask before, during and after, report.

Recipes and the command line choose a trainer and parse arguments; everything that they share is here. Knows nothing of how
options are typed, and nothing of how a loss is computed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.commands.curriculum import Curriculum, CurriculumArguments
from kinject.commands.keeping import KeepingArguments, describe, named_files, recorded_kept
from kinject.commands.output_dir import (
    bring_along,
    clear_output_dir,
    find_checkpoint,
    holding,
    prepare_output_dir,
    remove_checkpoints,
    require_same_run,
    resumes,
    run_inputs,
    settings_reading_output_dir,
)
from kinject.compat import check_devices, restarted, show_progress
from kinject.data.knowledge import direction_counts
from kinject.data.made_questions import made_by
from kinject.errors import ConfigurationError
from kinject.evaluation.examination import ExaminationArguments
from kinject.evaluation.report import ending, print_answers
from kinject.evaluation.results import recorded_answers
from kinject.sampling.config import SamplingArguments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import BitsAndBytesConfig
    from trl import ModelConfig

    from kinject.data import KnowledgeSet
    from kinject.evaluation.examination import Ask
    from kinject.models import LoadedModel
    from kinject.trainers import DocumentSFTConfig, DocumentSFTTrainer


MADE_QUESTIONS = 32  # made by rule where there are no others, as all are asked at every evaluation
_LOOKED_AT = 1_000  # of the longest documents, to find the memory that a batch of them takes


@dataclass
class InjectionArguments(CurriculumArguments, KeepingArguments, ExaminationArguments, SamplingArguments):
    """What to learn, what to ask, and how the answers are judged."""

    documents: str | list[str] = field(
        default="fictional:name_description",
        metadata={
            "help": "Documents: files and folders (json, jsonl, csv, tsv, parquet, xlsx, txt, md, pdf, html, docx, pptx, epub, "
            "rst, or the published layout), patterns such as 'docs/*.md', a Hub data set, fictional:name_description or "
            "fictional:biography."
        },
    )
    questions: str | None = field(
        default=None,
        metadata={
            "help": "File of questions; default: those that come with the documents, else up to 32 that are made from them by "
            "rule. 'rule': questions made by rule even if others come with the documents; 'none': ask nothing."
        },
    )
    writer: str | None = field(
        default=None,
        metadata={
            "help": "A language model that writes the questions instead: a directory, a Hub id, or smollm2-135m. Each is kept "
            "only if the model that is trained answers it with the document in view."
        },
    )
    text_field: str = field(default="text", metadata={"help": "Field of a row that holds the document."})
    question_field: str = field(default="question", metadata={"help": "Field of a row that holds the question."})
    answer_field: str = field(default="answer", metadata={"help": "Field of a row that holds its answer, or answers."})
    title_field: str = field(default="title", metadata={"help": "Field of a row that holds the title of its document."})
    paraphrases: str = field(
        default="none",
        metadata={
            "help": "Wordings of each document: 'none', 'same_order' or 'permute_order'.",
            "choices": ["none", "same_order", "permute_order"],
        },
    )
    facts: str | None = field(
        default=None, metadata={"help": "Only these documents and their questions, counted from 0, as in '0-9,30-39'."}
    )
    size: int | None = field(default=None, metadata={"help": "Number of people in a fictional world."})
    world_seed: int = field(default=0, metadata={"help": "Seed of a fictional world."})
    evaluations: int = field(
        default=6,
        metadata={"help": "How often to ask during training, at log-spaced epochs. 0: only before and after."},
    )
    evaluate_every: int | None = field(
        default=None, metadata={"help": "Ask after so many steps again and again, instead of at log-spaced epochs."}
    )
    select_on: str = field(
        default="none",
        metadata={
            "help": "Which weights to keep: 'none', the last; 'validation', the best on one half of the questions, "
            "reported on the other half; 'test', the best on the reported questions, as the paper does; 'practice', the best "
            "on people and things of --practice that are never asked about in training.",
            "choices": ["none", "validation", "test", "practice"],
        },
    )
    max_new_tokens: int = field(default=128, metadata={"help": "Longest answer, in tokens."})
    question_batch_size: int | None = field(
        default=None,
        metadata={"help": "Questions answered at once. Default: 32; 256 of an autoregressive model on an accelerator."},
    )
    few_shot: int = field(default=0, metadata={"help": "Answered questions shown before each question (the paper: 2)."})
    retention: bool = field(
        default=True, metadata={"help": "Measure forgetting: perplexity of held-out text and general questions."}
    )
    retention_questions: int = field(
        default=1000, metadata={"help": "With retention: how many general questions to ask, before and after training."}
    )
    control_half: bool = field(
        default=False,
        metadata={
            "help": "Teach half of the documents, drawn by the seed, and ask about the other half too: what training did is "
            "the difference."
        },
    )
    plan: bool = field(
        default=False,
        metadata={"help": "Print what the run would take (memory, tokens, steps, FLOPs, hours), and train nothing."},
    )
    baselines: list[str] | None = field(
        default=None, metadata={"help": "Finished runs (their output_dir) to show beside this one in the model card."}
    )
    overwrite: bool = field(
        default=False,
        metadata={
            "help": "Replace the run that lies in output_dir, with its checkpoints. Files that kinject did not write stay, "
            "unless the run writes a file of the same name."
        },
    )
    keep_checkpoints: bool = field(
        default=False,
        metadata={
            "help": "Keep checkpoints, with the optimizer's states, and the copy of the selected weights when a run has ended. "
            "Until then they are always kept, so that a run that is killed can go on."
        },
    )
    publish_documents: bool = field(
        default=False, metadata={"help": "Show the documents and the answers in the model card, not only their number."}
    )

    def __post_init__(self) -> None:
        """Refuse an unknown way of sampling, and read a list of one source as that source."""
        super().__post_init__()
        if self.writer is not None and self.questions is not None:
            raise ConfigurationError(
                f"questions is '{self.questions}', and --writer {self.writer} writes other ones; leave one of them out."
            )
        self.documents = one_or_several(self.documents)

    def load_knowledge(self, model: str | None = None) -> KnowledgeSet:
        """The documents and questions that these arguments name, and what ``model`` was taught earlier where that is kept.

        Raises:
            ConfigurationError: a setting that does not go with them.
            DataError: documents or questions that cannot be used.
        """
        from kinject.data import load_knowledge
        from kinject.data.made_questions import make_questions

        fields = {name: getattr(self, name) for name in ("text_field", "question_field", "answer_field", "title_field")}
        world: dict[str, Any] = {"size": self.size, "seed": self.world_seed}
        written = self.questions not in ("none", "rule")
        knowledge = load_knowledge(
            self.documents,
            self.questions if written else None,
            paraphrases=self.paraphrases,
            facts=self.facts,
            **world,
            **fields,
        )
        knowledge = self.load_kept(
            knowledge, model, lambda names, asked: load_knowledge(names, asked, **fields), self.documents
        )
        if self.questions == "none":
            return replace(knowledge, questions=())
        if self.writer is not None and not self.plan:
            from kinject.evaluation.asking import written_questions

            made = written_questions(knowledge.documents, self.writer, model, count=MADE_QUESTIONS)
            print(f"writer: {made.summary()}", flush=True)
            if made.questions:
                return replace(knowledge, questions=made.questions)
            return replace(knowledge, questions=make_questions(knowledge.documents, MADE_QUESTIONS))
        if self.questions == "rule" or (self.questions is None and not knowledge.questions):
            return replace(knowledge, questions=make_questions(knowledge.documents, MADE_QUESTIONS))
        return knowledge


def one_or_several(documents: str | list[str]) -> str | list[str]:
    """``documents``; a list of one source becomes that source."""
    return documents[0] if isinstance(documents, list) and len(documents) == 1 else documents


def inject(
    trainer_class: type[DocumentSFTTrainer],
    arguments: InjectionArguments,
    training_args: DocumentSFTConfig,
    model_args: ModelConfig,
    objective: str,
    *,
    knowledge: KnowledgeSet | None = None,
    chosen: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Train on documents, ask before, during and after, and write `results.json` and the model to `output_dir`.

    Args:
        trainer_class: The trainer of ``objective``.
        arguments, training_args, model_args: Parsed settings.
        objective: Its name in `results.json`: `masked`, `random_token`, `ar`, `reverse` or `diffusion`.
        knowledge: The documents and questions, where they are loaded already. Default: those that ``arguments`` name.
        chosen: Settings that were chosen because nobody gave them, each with the reason.

    Returns:
        The content of `results.json`; with `plan` what the run would take.

    Raises:
        ConfigurationError: a setting, model or output directory that cannot be used, or too little memory.
        DataError: documents or questions that cannot be used.
        HubError: `push_to_hub` failed: before training, or when everything lies in `output_dir`.
    """
    from trl import get_peft_config

    from kinject.commands.plan import forecast, show_plan
    from kinject.evaluation.callback import QuestionAnsweringCallback
    from kinject.evaluation.examination import Examination, asker, control_half, effect
    from kinject.evaluation.results import changed_settings, measured_before, read_results, summary
    from kinject.evaluation.retention import few_shot_examples, held_out, measure_retention
    from kinject.models.adapters import require_adapter_modules
    from kinject.models.weights import frozen_parameters, require_shared, whole_model
    from kinject.prompts.encoding import pin_template

    # What is learned and asked, and whether the run can begin: all of it before weights are loaded.
    sampling = arguments.sampling_config(arguments.max_new_tokens)
    go_on_from_adapter(model_args)
    settle_dtype(model_args, training_args)
    if arguments.plan:
        knowledge = knowledge or arguments.load_knowledge(model_args.model_name_or_path)
        rows = Curriculum(knowledge, arguments, training_args).beside()
        return show_plan(forecast(knowledge, arguments, training_args, model_args, beside=rows), training_args)
    if restarted() and not resumes(training_args.resume_from_checkpoint):
        training_args.resume_from_checkpoint = "true"  # the launcher ran the same command again, after a process died
    resume = resumes(training_args.resume_from_checkpoint)
    output_dir = prepare_output_dir(training_args.output_dir, overwrite=arguments.overwrite, resume=resume)
    require_shared(output_dir, settings_reading_output_dir(arguments, training_args))
    baselines = [summary(read_results(run)) for run in arguments.baselines or ()]
    knowledge = knowledge or arguments.load_knowledge(model_args.model_name_or_path)
    if knowledge.kept is not None and training_args.process_index == 0:
        print(f"keep: {describe(knowledge.kept)}")
    if training_args.keep_titles and training_args.process_index == 0 and knowledge.titles():
        print(f"{knowledge.titles()} (--keep_titles)")
    _require_memory(knowledge, arguments, training_args, model_args)
    knowledge, control = control_half(knowledge, training_args.seed) if arguments.control_half else (knowledge, ())
    inputs = run_inputs(arguments, model_args, knowledge)
    checkpoint = find_checkpoint(training_args)
    if checkpoint is not None:  # before anything is loaded; the trainer compares the rest
        require_same_run(checkpoint, knowledge, training_args, {**inputs, "objective": objective})
    curriculum = Curriculum(knowledge, arguments, training_args)
    practice = curriculum.practice
    if practice is not None and training_args.process_index == 0:
        print(f"practice: {practice.summary()}")

    # The model, and what it is asked before, during and after training.
    loaded = load_for_training(model_args, training_args)
    pin_template(loaded.tokenizer, training_args.system_prompt)  # others will ask in this frame, too
    frozen_parameters(loaded.model, training_args.frozen_modules or (), adapter=model_args.use_peft)  # refused early
    peft_config = None if loaded.source == "adapter" else get_peft_config(model_args)
    require_adapter_modules(loaded.model, peft_config)
    noted: dict[str, Any] = {"baselines": baselines} if baselines else {}
    noted |= {"chosen": {**chosen}} if chosen else {}
    results = _first_results(arguments, training_args, knowledge, loaded, objective, noted)
    validation, reported = (
        knowledge.split_questions() if arguments.select_on == "validation" else ((), knowledge.questions)
    )
    if arguments.select_on == "practice" and practice is not None:
        validation = tuple(practice.silent_questions())
    known = held_out(arguments.documents, arguments.retention_questions)._asdict() if arguments.retention else {}
    examination = Examination.of(
        replace(knowledge, questions=tuple(reported)), arguments, arguments.documents, arguments.retention, control
    )
    asking: dict[str, Any] = {
        "max_new_tokens": arguments.max_new_tokens,
        "batch_size": arguments.question_batch_size,
        "examples": few_shot_examples(arguments.few_shot, arguments.documents),
        "system_prompt": training_args.system_prompt,
    }

    def ask(model: Any) -> Ask:
        return asker(model, loaded.tokenizer, arguments, **asking)

    def knows(model: Any) -> dict[str, Any]:
        retained = {"retention": measure_retention(model, loaded.tokenizer, **known)} if known else {}
        return retained | examination.measure(ask(model))

    callback = QuestionAnsweringCallback(
        reported,
        loaded.tokenizer,
        results=results,
        documents=[each.titled_text for each in knowledge.documents],
        validation=validation,
        unseen=practice.unseen_questions() if practice is not None and arguments.select_on == "practice" else (),
        select_on=arguments.select_on,
        evaluations=arguments.evaluations,
        every=arguments.evaluate_every,
        **asking,
        sampling=sampling if loaded.is_diffusion else None,
        knows=knows if known or examination.asks else None,
    )

    # Training.
    if arguments.overwrite and not (resume and holding(output_dir).checkpoints):
        replaced = clear_output_dir(output_dir)  # not before: until here nothing stood in the way of the new run
        if replaced:
            print(f"--overwrite: {', '.join(replaced)} in {output_dir} will be replaced; kinject did not write them")
    trainer = trainer_class(
        loaded.model,
        training_args,
        train_dataset=curriculum.dataset(loaded),
        processing_class=loaded.tokenizer,
        peft_config=peft_config,
    )
    trainer.inputs |= inputs
    if checkpoint is not None and trainer.accelerator.is_main_process:
        bring_along(Path(checkpoint).parent, output_dir)
    results["config"] = changed_settings(arguments, training_args, model_args)  # as the trainer completed them
    for name in ("overwrite", "resume_from_checkpoint", "keep_checkpoints"):  # say nothing of what was trained
        results["config"].pop(name, None)
    if "train" in trainer.entity_reports:
        report = trainer.entity_reports["train"]
        results["entities"] = {"documents_without": report.without, "documents_with_absent": report.absent}
    callback.attach(trainer)
    show_progress(trainer)
    if trainer.accelerator.is_main_process:
        print(_opening_of(knowledge, loaded, objective, training_args, model_args), flush=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    callback.restore_best(trainer)
    trainer.save_model(str(output_dir), _internal_call=True)  # a push waits for the results

    # What it knows now.
    results = callback.results
    results["answers"] = recorded_answers(reported, callback.answers)
    examined = measured_before(results)
    before = examined.pop("retention", None)
    if before is not None or examination.asks:
        with whole_model(trainer) as model:
            if before is not None:
                after = measure_retention(model, loaded.tokenizer, reference=before, **known)
                results["retention"] = {"before": before, "after": after}
            for part, found in examination.measure(ask(model), examined, callback.answers).items():
                results[part] = {"before": examined[part], "after": found}
    if knowledge.kept is not None:
        after = {part: results[part]["after"]["answers"] for part in ("kept", "outdated") if part in results}
        results["answers_kept"] = recorded_kept(knowledge.kept, after)
        results.setdefault("kept", {})["documents"] = len(knowledge.kept.documents)
    if "control" in results:
        results["control"]["effect"] = effect(results["after"], results["control"]["after"])
    _finish(trainer, results, output_dir, arguments)
    return results


def _require_memory(
    knowledge: KnowledgeSet, arguments: InjectionArguments, training_args: DocumentSFTConfig, model_args: ModelConfig
) -> None:
    """Refuse a run that does not fit into the memory of its device, where that is known.

    Raises:
        ConfigurationError: it does not fit; the message says what would.
    """
    from kinject.commands.plan import forecast, require_memory
    from kinject.models import devices

    split = "device_map" in (training_args.model_init_kwargs or ())  # over several devices
    if devices.device_memory(training_args.device) is not None and not split:
        found = forecast(knowledge, arguments, training_args, model_args, most=_LOOKED_AT)
        if found is not None:
            require_memory(found)


def _finish(
    trainer: DocumentSFTTrainer, results: dict[str, Any], output_dir: Path, arguments: InjectionArguments
) -> None:
    """Write results, card and page, publish them if asked, remove checkpoints, and say how the run ended."""
    from kinject.evaluation.page import write_page
    from kinject.evaluation.report import results_table
    from kinject.evaluation.results import write_results

    if trainer.accelerator.is_main_process:
        write_results(output_dir / "results.json", results)
        trainer.create_model_card()  # with the plot
        write_page([results], output_dir / "report.html", replace=True)  # output_dir was looked through before
        print(results_table([results]))
        print_answers(results["answers"])
    if trainer.args.push_to_hub:
        _push(trainer)
    if trainer.accelerator.is_main_process:
        gone, freed = ([], 0) if arguments.keep_checkpoints else remove_checkpoints(output_dir)
        if gone:
            print(f"\nremoved: {', '.join(gone)} ({freed / 1e6:,.1f} MB; --keep_checkpoints keeps them)")
        print(f"\n{ending(results, output_dir, push=trainer.args.push_to_hub)}")


def _first_results(
    arguments: InjectionArguments,
    training_args: DocumentSFTConfig,
    knowledge: KnowledgeSet,
    loaded: LoadedModel,
    objective: str,
    noted: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of `results.json` before anything is measured: what is learned, by which model, and what is ``noted``."""
    from kinject.evaluation.results import learned_documents, new_results

    return new_results(
        objective=objective,
        model=loaded.name,
        dataset=knowledge.name,
        paraphrases=knowledge.paraphrases,
        seed=training_args.seed,
        model_source=loaded.source,
        documents=len(knowledge.documents),
        facts=len(knowledge.facts),
        learned=learned_documents(
            [
                *named_files(knowledge, arguments.documents).documents,
                *(knowledge.kept.documents if knowledge.kept else ()),
            ]
        ),
        **({"questions_made_by": made} if (made := made_by(knowledge.questions)) else {}),
        **noted,
        **(
            {"document_texts": [each.titled_text for each in knowledge.documents]}
            if arguments.publish_documents
            else {}
        ),
    )


def _opening_of(
    knowledge: KnowledgeSet,
    loaded: LoadedModel,
    objective: str,
    training_args: DocumentSFTConfig,
    model_args: ModelConfig,
) -> str:
    """`opening`, with the settings in words."""
    more = ", gone on with" if loaded.source == "adapter" else ""
    weights = f"an adapter{more} (rank {model_args.lora_r})" if model_args.use_peft else "all weights"
    if training_args.preserved_rank:
        weights = f"all but the largest {training_args.preserved_rank:.0%} of singular values"
    precision = "bf16" if training_args.bf16 else "fp16" if training_args.fp16 else "fp32"
    device = f"{training_args.device.type}, {precision}"
    epochs, steps = training_args.num_train_epochs, training_args.max_steps
    return opening(knowledge, loaded.name, objective, weights, device, epochs, steps)


def opening(
    knowledge: KnowledgeSet, model: str, objective: str, weights: str, device: str, epochs: float, max_steps: int
) -> str:
    """What a run is about to do, in four short lines.

    Args:
        knowledge: what is learned and asked.
        model, objective: by name.
        weights: which are trained: ``all weights``, or an adapter.
        device: where, and in which precision.
        epochs, max_steps: how long; ``max_steps`` counts where it is above 0.
    """
    counts = direction_counts(knowledge.questions)
    machine = sum(made_by(knowledge.questions).values())
    asked = (
        f"{counts['forward']} forward, {counts['backward']} backward"
        if knowledge.questions
        else "none: nothing is asked"
    )
    asked += f", {machine} of them made by machine (--questions FILE: your own)" if machine else ""
    words = sum(len(each.titled_text.split()) for each in knowledge.documents)
    length = f"{max_steps} steps" if max_steps > 0 else f"{epochs:g} epochs (--num_train_epochs)"
    lines = {
        "documents": f"{knowledge.name}: {len(knowledge.documents)}, {words:,} words",
        "questions": asked,
        "model": f"{model} on {device}",
        "training": f"{objective}, {weights}, {length}",
    }
    return "\n".join(f"{name:<10} {text}" for name, text in lines.items())


def go_on_from_adapter(model_args: ModelConfig) -> None:
    """Where the model is an adapter, set ``model_args`` to go on training that adapter."""
    from kinject.models.adapters import adapter_config

    name = str(model_args.model_name_or_path)
    found = adapter_config(name) if Path(name).is_dir() else None
    if found is not None:
        model_args.use_peft = True
        model_args.lora_r = found.get("r", model_args.lora_r)
        model_args.lora_alpha = found.get("lora_alpha", model_args.lora_alpha)
        model_args.lora_target_modules = found.get("target_modules", model_args.lora_target_modules)


def _push(trainer: DocumentSFTTrainer) -> None:
    """Publish what was trained, now that it lies in `output_dir` with its results."""
    pushed = trainer.push_to_hub()
    if pushed is not None:
        print("\n".join([f"pushed to {pushed.url}", *(f"note: {note}" for note in pushed.notes)]))


def load_for_training(model_args: ModelConfig, training_args: DocumentSFTConfig) -> LoadedModel:
    """Load the model that ``model_args`` names, quantized if asked, with trl's loading settings.

    Raises:
        ConfigurationError: no model is named, it cannot be loaded, or there are several GPUs and no launcher.
    """
    from accelerate import PartialState
    from transformers.integrations import is_deepspeed_zero3_enabled
    from trl import get_quantization_config

    from kinject.models import load_model
    from kinject.trainers import DiffusionSFTConfig

    if not model_args.model_name_or_path:
        raise ConfigurationError("no model is named; pass --model, such as smollm2-135m.")
    if "device_map" not in (training_args.model_init_kwargs or ()):  # which splits a model over several GPUs
        check_devices(training_args.n_gpu)
    options: dict[str, Any] = (
        {**training_args.model_init_kwargs} if isinstance(training_args.model_init_kwargs, dict) else {}
    )
    options["dtype"] = model_args.dtype or "float32"
    if any(getattr(group, "trust_remote_code", False) for group in (training_args, model_args)):  # trl moved it
        options["trust_remote_code"] = True
    if model_args.attn_implementation:
        options["attn_implementation"] = model_args.attn_implementation
    if model_args.model_revision != "main":
        options["revision"] = model_args.model_revision
    quantization = get_quantization_config(model_args)
    if quantization is not None:
        options["quantization_config"] = quantization
        if is_deepspeed_zero3_enabled():
            _make_shardable(quantization, bf16=bool(training_args.bf16))
        else:
            options["device_map"] = {"": PartialState().device}  # quantized weights cannot be moved afterwards
    conversion = training_args.conversion_options() if isinstance(training_args, DiffusionSFTConfig) else {}
    return load_model(model_args.model_name_or_path, **conversion, **options)


def settle_dtype(model_args: ModelConfig, training_args: DocumentSFTConfig) -> None:
    """Choose the precision of the weights where nobody has: fp32 where they learn, bf16 where an adapter learns on them.

    A frozen base has no updates to lose, and is computed with in bf16. Under FSDP it stays in fp32, as the weights of a group
    need one precision, and under ZeRO-3 too, where trl would train adapters in the precision of the base.
    """
    from transformers.integrations import is_deepspeed_zero3_enabled

    if model_args.dtype is None:
        sharded = is_deepspeed_zero3_enabled() or os.environ.get("ACCELERATE_USE_FSDP") == "true" or training_args.fsdp
        narrow = model_args.use_peft and training_args.bf16 and not sharded
        model_args.dtype = "bfloat16" if narrow else "float32"


def _make_shardable(quantization: BitsAndBytesConfig, bf16: bool) -> None:
    """Let ZeRO-3 shard 4-bit weights: it shards tensors of its own type only, so they are stored as numbers of that type.

    Raises:
        ConfigurationError: 8-bit weights, which have no such storage.
    """
    if not quantization.load_in_4bit:
        raise ConfigurationError(
            "ZeRO-3 cannot shard 8-bit weights; pass --load_in_4bit instead of --load_in_8bit, or launch with "
            "deepspeed_configs/ddp.yaml."
        )
    import torch

    quantization.bnb_4bit_quant_storage = torch.bfloat16 if bf16 else torch.float32
