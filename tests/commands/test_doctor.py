"""`kinject doctor`: what is there, what is missing, and whether a configuration could run."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from kinject import cli
from kinject.commands import doctor
from kinject.commands.doctor import Finding, examine, report

NANO = ["--model_name_or_path", "nano-ar", "--documents", "fictional:nano", "--size", "4"]


def by_name(findings: list[Finding], what: str) -> Finding:
    (found,) = [each for each in findings if each.what == what]
    return found


def test_without_a_configuration_it_reports_versions_and_features(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["doctor"])
    said = capsys.readouterr().out
    assert torch.__version__ in said and metadata.version("trl") in said
    assert "required packages" in said and "output_dir" not in said


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "bitsandbytes":
            raise metadata.PackageNotFoundError(name)
        return "0.1" if name == "peft" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    findings = examine()
    quantization = by_name(findings, doctor.FEATURES["quant"])
    assert quantization.state == "missing" and quantization.says == "bitsandbytes; pip install 'kinject[quant]'"
    required = by_name(findings, "required packages")
    assert required.state == "error" and "pip install 'peft>=" in required.says


def test_every_feature_is_an_extra() -> None:
    assert set(doctor.FEATURES) <= set(metadata.metadata("kinject").get_all("Provides-Extra"))


def test_a_configuration_that_could_run_is_looked_at_without_running(tmp_path: Path) -> None:
    findings = examine("masked", [*NANO, "--output_dir", str(tmp_path / "out")])
    assert not [each for each in findings if each.state == "error"]
    assert by_name(findings, "model").says.endswith("mask token '<|mask|>'")
    assert by_name(findings, "documents").says == "4 of fictional:nano; 24 questions"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "what", "says"),
    [
        (["--mask_ratio", "uniform(2, 3)"], "settings", "mask ratio uniform"),
        (["--size", "0"], "documents", "size"),
        (["--model_name_or_path", "./nowhere"], "model", "'./nowhere': no such directory"),
        (["--attn_implementation", "sdap"], "settings", "did you mean sdpa?"),
        (["--frozen_modules", "atention"], "model", "no weight of this model lies in 'atention'"),
        (["--mask_token", "two words"], "model", "is not one token"),
        (["--load_in_4bit", "true"], "load_in_4bit and load_in_8bit", "needs bitsandbytes, which is not installed"),
    ],
)
def test_what_would_stop_a_run_is_an_error(
    options: list[str], what: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find_spec = doctor.util.find_spec
    monkeypatch.setattr(doctor.util, "find_spec", lambda name: None if name == "bitsandbytes" else find_spec(name))
    found = by_name(examine("masked", [*NANO, "--output_dir", str(tmp_path), *options]), what)
    assert found.state == "error" and says in found.says


def test_where_files_show_an_error_nothing_heavy_is_looked_at(tmp_path: Path) -> None:
    code = """
import sys
from kinject.commands.doctor import examine, report
print(report(examine("masked", ["gone.txt", "--model", "gone", "--use_liger_kernel", "--use_cpu"])))
print(sorted({"torch", "transformers", "trl", "peft"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    errors = {" ".join(line.split()[1:]) for line in lines if line.startswith("ERROR")}
    assert [*filter(lambda each: each.startswith("model model 'gone': no such directory"), errors)]
    assert [*filter(lambda each: each.startswith("documents gone.txt: there is no such file"), errors)]
    assert [*filter(lambda each: each.startswith("settings use_liger_kernel needs a GPU"), errors)]
    assert lines[-2].split() == [
        "device,",
        "tokens,",
        "memory",
        "looked",
        "at",
        "once",
        "the",
        "errors",
        "above",
        "are",
        "mended",
    ]
    assert lines[-1] == "[]" and metadata.version("trl") in done.stdout


def test_an_error_ends_it_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(SystemExit) as stopped:
        cli.main(["doctor", *NANO, "--output_dir", str(blocked)])
    assert stopped.value.code == 2
    assert "ERROR" in capsys.readouterr().out


def test_what_is_on_the_hub_is_not_fetched(tmp_path: Path) -> None:
    options = ["--model_name_or_path", "nobody/nothing", "--documents", "nobody/texts", "--output_dir", str(tmp_path)]
    findings = examine("masked", options)
    assert by_name(findings, "model").state == by_name(findings, "documents").state == "fact"


def test_an_adapter_is_looked_up_through_its_base(tmp_path: Path) -> None:
    adapter = {"base_model_name_or_path": "nano-ar", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    save_file({"lora_A.weight": np.zeros((1, 1), np.float32)}, tmp_path / "adapter_model.safetensors")
    options = ["--model_name_or_path", str(tmp_path), "--documents", "fictional:nano"]
    assert "a vocabulary of" in by_name(examine("masked", options), "model").says


def test_a_report_has_a_line_for_each_finding() -> None:
    assert report([Finding("fact", "a"), Finding("error", "bcd", "no")]) == "        a\nERROR   bcd  no"


def test_a_run_that_cannot_fit_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from kinject.models import devices

    options = ["--model", "nano-ar", "--documents", "fictional:nano", "--output_dir", str(tmp_path / "out")]
    fits = by_name(examine("masked", options), "memory")
    assert fits.state == "fact" and "GB of each device; --plan says of what" in fits.says
    monkeypatch.setattr(devices, "device_memory", lambda device: 1_000)
    refused = by_name(examine("masked", options), "memory")
    assert refused.state == "error" and "out of memory, before it begins" in refused.says
