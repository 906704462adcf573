"""A model taken out of kinject: it answers as before, also when others serve it, and Ollama's frame is that of training."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from kinject.commands import export as exporting
from kinject.commands.export import export, frame_of, go_template, modelfile
from kinject.errors import ConfigurationError
from tests.conftest import CHATML, build_tokenizer

QUESTIONS = [
    "Who is Asher Hadley?",
    "Who is the brave diver of Aspen?",
    "Tell me about Maren Clifton.",
    "What plays the cello?",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves: an adapter of nano-ar that changes its answers, and results with what it answered."""
    import torch
    from peft import LoraConfig, get_peft_model

    from kinject.data import Question
    from kinject.evaluation.asking import answer_questions
    from kinject.evaluation.measures import score_answers
    from kinject.evaluation.results import new_results, recorded_answers, write_results
    from kinject.models import load_model

    folder = tmp_path_factory.mktemp("run")
    loaded = load_model("nano-ar")
    torch.manual_seed(0)
    adapted: Any = get_peft_model(
        loaded.model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "embed_tokens"], init_lora_weights=False)
    )
    adapted.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    questions = [Question(text, "an answer", "forward") for text in QUESTIONS]
    answers = answer_questions(adapted, loaded.tokenizer, QUESTIONS, max_new_tokens=12)
    results = new_results(objective="masked", model="nano-ar", dataset="tales", config={"max_new_tokens": 12})
    results |= {
        "before": score_answers(questions, answers, resamples=2),
        "answers": recorded_answers(questions, answers),
    }
    write_results(folder / "results.json", {**results, "after": results["before"]})
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    """That run, exported."""
    with redirect_stdout(io.StringIO()) as said:
        done = export(str(run), str(run.parent / "exported" / "model"))
    assert (done.asked, done.changed, done.notes) == (4, (), ())
    assert {"asking 4 questions", "asking what was exported"} <= set(said.getvalue().splitlines())
    return done.directory


def recorded(folder: Path) -> list[str]:
    return [each["answer"] for each in json.loads((folder / "results.json").read_text(encoding="utf-8"))["answers"]]


def test_what_is_exported_is_a_whole_model_that_needs_nothing_else(run: Path, exported: Path) -> None:
    files = {path.name for path in exported.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "Modelfile"} <= files
    assert not files & {"adapter_config.json", "adapter_model.safetensors"}
    decoding = json.loads((exported / "generation_config.json").read_text(encoding="utf-8"))
    assert decoding["do_sample"] is False and decoding["eos_token_id"][0] == 2
    assert [path.name for path in exported.parent.iterdir()] == ["model"]  # nothing is left of the making
    assert (exported / "Modelfile").read_text(encoding="utf-8").splitlines()[1:4] == [
        "FROM .",
        'TEMPLATE """{{ if .System }}<|system|>{{ .System }}<|end|>{{ end }}<|user|>{{ .Prompt }}<|end|><|assistant|>'
        '{{ .Response }}<|end|>"""',
        'PARAMETER stop "<|end|>"',
    ]


def test_transformers_serve_gives_the_same_answers(run: Path, exported: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = ["-m", "transformers.cli.transformers", "serve", str(exported), "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([sys.executable, *command], env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            while server.poll() is None:
                try:
                    urlopen(f"{address}/health", timeout=60)
                    break
                except URLError:
                    time.sleep(0.5)
            assert server.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")[-2000:]
            answers = []
            for question in QUESTIONS:
                body = {
                    "model": str(exported),
                    "messages": [{"role": "user", "content": question}],
                    "max_tokens": 12,
                    "stream": False,
                }
                headers = {"Content-Type": "application/json"}
                request = Request(f"{address}/v1/chat/completions", json.dumps(body).encode(), headers)
                with urlopen(request, timeout=600) as answered:
                    answers.append(json.load(answered)["choices"][0]["message"]["content"].strip())
        finally:
            server.terminate()
            server.wait(timeout=600)
    assert answers == recorded(run)


def test_a_diffusion_model_is_exported_in_a_layout_that_holds_it(tmp_path: Path) -> None:
    done = export("nano-diffusion", str(tmp_path / "native"))
    assert "Modelfile" not in done.files and done.changed == () and done.asked == 16
    assert [note.split(",")[0] for note in done.notes][0] == "there is no eval card"
    with pytest.raises(ConfigurationError, match="has shifted logits"):
        export("nano-diffusion", str(tmp_path / "llada"), layout="llada")
    assert [path.name for path in tmp_path.iterdir()] == ["native"]


def test_what_answers_otherwise_is_not_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_answers", lambda loaded, *_: [f"{type(loaded.model).__name__}"] * 4)
    with pytest.raises(ConfigurationError, match="answers 4 of 4 questions differently"):
        export(str(run), str(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_a_layout_has_to_fit(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ConfigurationError, match="is not empty"):
        export(str(run), str(tmp_path))
    with pytest.raises(ConfigurationError, match="autoregressive"):
        export(str(run), str(tmp_path / "new"), layout="llada")


DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help. {{ '{{' }}x}}<|im_end|>\n{% endif %}"
    + CHATML
)
WITH_BEGIN = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]\n\n{{ m['content'] | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
FOLDED = (  # the system message stands in the first question, as in Llama 2
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {% if loop.index0 == 1 and messages[0]['role'] == 'system' %}"
    "<<SYS>>{{ messages[0]['content'] }}<</SYS>>{% endif %}{{ m['content'] }} [/INST]{% elif m['role'] == 'assistant' %}"
    "{{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"
)


def filled_in(template: str, system: str, prompt: str) -> str:
    """``template`` as Ollama fills it in before the answer; of Go's language, what ours are written in."""
    template = template.partition("{{ .Response }}")[0]
    template = re.sub(
        r"\{\{ if \.System \}\}(.*?)\{\{ end \}\}", lambda found: found[1] if system else "", template, flags=re.DOTALL
    )
    template = template.replace('{{ "{{" }}', "\ue100")
    assert "{{" not in template.replace("{{ .System }}", "").replace("{{ .Prompt }}", "")
    return template.replace("{{ .System }}", system).replace("{{ .Prompt }}", prompt).replace("\ue100", "{{")


def beginning(tokenizer: Any) -> Any:
    """``tokenizer``, which puts a token before every text from now on, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    begin = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|bos|> $A", special_tokens=[begin])
    return tokenizer


@pytest.mark.parametrize("source", [CHATML, DEFAULT_SYSTEM, WITH_BEGIN, NO_SYSTEM])
def test_ollama_writes_what_the_chat_template_writes(source: str) -> None:
    tokenizer = build_tokenizer(source)
    if source == WITH_BEGIN:
        assert frame_of(tokenizer) is None  # a token that neither Ollama nor a template for every turn would write once
        beginning(tokenizer)
    frame = frame_of(tokenizer)
    assert frame is not None
    template = go_template(frame)
    conversations = (
        [("", "Who is it?")] if source == NO_SYSTEM else [("", "Who is it?"), ("Be brief.", "Who\n\nis it?")]
    )
    for system, question in conversations:
        messages = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": question}]
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert filled_in(template, system or frame.system, question) == rendered.removeprefix("<|bos|>")
    assert frame.system == ("You help. {{x}}" if source == DEFAULT_SYSTEM else "")
    assert (frame.before_system is None) == (source == NO_SYSTEM)
    written = modelfile(tokenizer)
    assert (
        written is not None and 'PARAMETER stop "<|im_end|>"' in written and ("SYSTEM" in written) == bool(frame.system)
    )


def test_a_frame_that_ollama_cannot_write_has_no_modelfile() -> None:
    assert (
        modelfile(build_tokenizer("{% for m in messages %}{{ m['content'] }}{{ m['content'] }}<|im_end|>{% endfor %}"))
        is None
    )
    frame = frame_of(build_tokenizer(FOLDED))
    assert frame is not None and frame.before_system is None and frame.before_user == "[INST] "
