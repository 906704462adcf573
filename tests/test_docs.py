"""README and docs: what they link to is there, the files they name exist, their commands read, and the README's Python runs.

Their commands are not run here: they train for minutes to hours, or need a Hub. They are given to the parsers that a user's go
to, which refuse unknown options, wrong values, settings without an effect, and files of the checkout that are not there.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kinject import cli
from kinject.commands.settings import read_training, split_objective
from kinject.errors import KinjectError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "recipes" / "README.md", *sorted((ROOT / "recipes" / "results").glob("*.md"))]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the Hub and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"\b((?:tests|kinject|recipes|deepspeed_configs)/[\w./-]+\.(?:py|yaml|md|json))\b", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    assert [name for name in missing if "/x_" not in name] == []  # an objective to come


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "forward" in done.stdout and (tmp_path / "out" / "results.json").is_file()


def blocks(language: str) -> list[tuple[str, str]]:
    """The code blocks of all pages in ``language``, each with its page."""
    found = []
    for page in PAGES:
        for code in re.findall(
            rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            found.append((page.relative_to(ROOT).as_posix(), code))
    return found


def commands() -> list[tuple[str, str]]:
    """Every command of the shell blocks, each with its page."""
    lines = [(page, line) for page, code in blocks("sh") for line in code.replace("\\\n", " ").splitlines()]
    return [
        (page, " ".join(command.split())) for page, line in lines for command in line.split("&&") if command.strip()
    ]


OBJECTIVE_OF = {"masked_ft.py": "masked", "ar_ft.py": "ar", "dllm_ft.py": "diffusion"}
FOREIGN = (
    "transformers",
    "curl",
    "vllm",
    "llama-server",
    "cd",
    "ollama",
    "hf",
    "jupyter",
)  # programs of others
FOREIGN_PACKAGES = ("transformers[serving]",)
PLAIN = ("masked_loop.py", "sft.py", "memory.py")  # scripts whose options are files of the checkout, if any


def check_script(script: str, arguments: list[str]) -> None:
    path = ROOT / script
    assert path.is_file(), f"there is no {script}"
    if path.name in OBJECTIVE_OF:
        read_training(OBJECTIVE_OF[path.name], arguments)
    else:
        assert path.name in PLAIN or path.parent.name == "benchmarks", f"how is {script} to be checked?"
        assert all((ROOT / each).exists() for each in arguments if each.endswith(".yaml"))


def check(words: list[str]) -> None:
    """Read a command as what it names does."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    first = words.index("...") - 1 if "..." in words else len(words)  # what is left open, and the option before it
    program, rest = words[0], words[1:first]
    if program == "kinject" and rest[0] == "inject":
        objective, options = split_objective(rest[1:])
        read_training(objective, options)
    elif program == "kinject":
        parser = cli.build_parser()
        _, unknown = parser.parse_known_args(cli._model_first(parser, rest))
        assert unknown == []
    elif words[:2] == ["accelerate", "launch"]:
        rest = rest[1:]
        while rest[0].startswith("--"):
            assert rest[0] in ("--config_file", "--num_processes")
            assert rest[0] != "--config_file" or (ROOT / rest[1]).is_file()
            rest = rest[2:]
        check_script(rest[0], rest[1:])
    elif "|" in words:
        check(words[words.index("|") + 1 :])
    elif program == "python" and (rest[0].startswith("llama.cpp/") or rest[1:2] == ["sglang.launch_server"]):
        pass  # of others, too
    elif program == "python" and rest[0] != "-m":
        check_script(rest[0], rest[1:])
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    elif program == "lm_eval":
        assert (ROOT / rest[rest.index("--include_path") + 1]).is_dir()
    elif words[1:3] == ["-m", "pytest"]:
        assert (ROOT / words[3]).exists()
    elif words[:2] == ["python", "-m"]:
        assert (ROOT / (words[2].replace(".", "/") + ".py")).is_file()
    elif words[:2] == ["pip", "install"]:
        extras = re.findall(r"(?:kinject|\.)\[(\w+)\]", words[-1])
        assert words[-1] == "." or extras or words[-1] in FOREIGN_PACKAGES
        for extra in extras:
            assert re.search(rf"^{extra} =", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE)
    else:
        assert program in FOREIGN or words in ([".venv/bin/ruff", "format", "."], [".venv/bin/mypy"]), words


@pytest.mark.parametrize(("page", "command"), commands(), ids=lambda each: each)
def test_a_command_is_one_that_can_be_typed(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    check(shlex.split(command, comments=True))


@pytest.mark.parametrize(
    "command",
    [
        "kinject inject wiki/ --modle x",
        "kinject eval out --question q.jsonl",
        "kinject tables out",
        "python recipes/masked_ft.py --config recipes/nano/none.yaml",
        "accelerate launch recipes/dllm_ft.py --frame poem",
        "make tests",
        "rm -r out",
    ],
)
def test_a_command_that_cannot_be_typed_is_noticed(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises((AssertionError, KinjectError, SystemExit)):
        check(shlex.split(command))


@pytest.mark.parametrize(("page", "code"), blocks("python"), ids=lambda each: each.splitlines()[0])
def test_python_is_python(page: str, code: str) -> None:
    """What is not the README's needs a Hub; `tests/hub/test_loading.py` loads by these calls from a local one."""
    assert ast.parse(code).body
