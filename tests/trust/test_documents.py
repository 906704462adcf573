"""Data of the real world: any text in any file is trained whole, or refused with its file and line.

`KINJECT_TRUST_CASES` is the number of generated cases; `make nightly` runs 10,000, and a larger document.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinject.data import load_knowledge
from kinject.data.words import with_plain_line_ends
from kinject.errors import DataError
from kinject.trainers import DiffusionSFTConfig, DiffusionSFTTrainer, MaskedSFTConfig, MaskedSFTTrainer
from tests.conftest import build_model, build_tokenizer
from tests.trainers.conftest import SMALL

CASES = int(os.environ.get("KINJECT_TRUST_CASES", "100"))
LARGE = 1_000_000 if "KINJECT_TRUST_CASES" in os.environ else 250_000  # bytes
ODD = (
    "<|im_end|>",
    "<|im_start|>assistant\n",
    "<reserved_0>",
    "<|bos|>",
    "<|pad|>",
    "</s>",
    "[MASK]",
    "{masked}",
    "{document}",
    "{{ messages }}",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "مرحبا بالعالم",
    "שלום‎",
    "\u202e\u2066",
    "\u200b\u200d\ufeff",
    "e\u0301\u0327",
    "漢字かな交じり文。",
    "\U0010ffff",
    "\x00\x07\x1b[31m",
    "\x85\u2028\u2029",
    "=HYPERLINK(1)",
    "x" * 600,
    " ",
    "\t\n",
    "\r\n",
)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
documents = st.lists(st.one_of(text, st.sampled_from(ODD)), min_size=1, max_size=5).map("".join)
FORMATS = ("json", "jsonl", "csv", "txt", "md")


@cache
def _parts(diffusion: bool) -> Any:
    tokenizer = build_tokenizer()
    model: Any = build_model(tokenizer)
    if diffusion:
        from kinject.models import to_diffusion

        to_diffusion(model, int(tokenizer.convert_tokens_to_ids("<reserved_0>")))  # type: ignore[arg-type]
    return model, tokenizer


def trainer_of(knowledge: Any, directory: str, diffusion: bool = False, **changes: Any) -> Any:
    config, kind = (DiffusionSFTConfig, DiffusionSFTTrainer) if diffusion else (MaskedSFTConfig, MaskedSFTTrainer)
    model, tokenizer = _parts(diffusion)
    args = config(directory, **{**SMALL, "logging_steps": 100, "max_steps": 1, "max_length": 256, **changes})
    return kind(model, args, train_dataset=knowledge.to_dataset(), processing_class=tokenizer)


def write(path: Path, form: str, texts: list[str], newline: str, bom: bool) -> None:
    if form == "jsonl":
        written = newline.join(json.dumps({"text": each}, ensure_ascii=False) for each in texts)
    elif form == "json":
        written = json.dumps([{"text": each} for each in texts], indent=1).replace("\n", newline)
    elif form == "csv":
        buffer = io.StringIO(newline="")
        rows = csv.writer(buffer, lineterminator=newline, quoting=csv.QUOTE_ALL)
        rows.writerows([["text"], *([each] for each in texts)])
        written = buffer.getvalue()
    else:
        written = texts[0]
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + written.encode("utf-8"))


@given(
    texts=st.lists(documents, min_size=1, max_size=3),
    form=st.sampled_from(FORMATS),
    newline=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
    diffusion=st.booleans(),
)
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
def test_any_text_in_any_file_is_trained_whole_or_refused_with_its_place(
    texts: list[str], form: str, newline: str, bom: bool, diffusion: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"documents.{form}"
        write(path, form, texts, newline, bom)
        held = texts if form in ("json", "jsonl", "csv") else texts[:1]
        # Nothing but white space is refused, and a NUL byte, which JSON can escape.
        if not all(map(str.strip, held)) or (form not in ("json", "jsonl") and "\0" in "".join(held)):
            with pytest.raises(DataError, match=f"^{re.escape(str(path))}:"):
                load_knowledge(str(path))
            return
        knowledge = load_knowledge(str(path))
        if held is texts:
            assert [document.text for document in knowledge.documents] == [*map(with_plain_line_ends, texts)]
        trainer = trainer_of(knowledge, directory, diffusion)
        require_faithful(trainer, [document.text for document in knowledge.documents], diffusion)
        trainer.train()
        assert all(torch.isfinite(weight).all() for weight in trainer.model.parameters())


def require_faithful(trainer: Any, texts: list[str], diffusion: bool) -> None:
    """What is learned is the documents, nothing cut or forged: one end of turn each, no control token inside."""
    tokenizer = trainer.processing_class
    control = set(tokenizer.all_special_ids)
    mask = tokenizer.convert_tokens_to_ids("<reserved_0>")
    samples = [trainer.train_dataset[index] for index in range(len(trainer.train_dataset))]
    assert not any(control & set(sample["document_ids"]) for sample in samples)
    learned = tokenizer.decode([index for sample in samples for index in sample["document_ids"]])
    assert "".join(learned.split()) == "".join(
        "".join(texts).split()
    )  # white space where a document is split is dropped
    for sample in samples:
        batch = trainer.data_collator([sample])
        ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
        target = [label for label in labels if label != -100]
        assert mask not in target
        if not diffusion:
            assert target == [*sample["document_ids"], tokenizer.eos_token_id]
            assert ids.count(tokenizer.eos_token_id) == 2  # the user's turn ends, and the assistant's


@pytest.mark.parametrize("form", FORMATS)
def test_latin_1_is_refused_with_its_line(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"documents.{form}"
    path.write_bytes('[\n"caf\xe9"\n]'.encode("latin-1"))
    with pytest.raises(DataError, match=r"documents\.\w+:2: not UTF-8 text \(byte 0xE9\); save the file as UTF-8"):
        load_knowledge(str(path))


def test_half_a_surrogate_pair_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "\\ud83d"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"documents\.jsonl:2: .*half of a surrogate pair"):
        load_knowledge(str(path))


@pytest.mark.parametrize("made_of", ["One sentence of many, with a number in it. ", "nospacesatall", "漢"])
def test_a_document_as_large_as_a_book_is_split_and_whole(made_of: str, tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    path.write_text(made_of * (LARGE // len(made_of.encode())), encoding="utf-8")
    knowledge = load_knowledge(str(path))
    trainer = trainer_of(knowledge, str(tmp_path / "run"), max_length=512)
    assert max(len(sample["document_ids"]) for sample in trainer.train_dataset) <= 256
    learned = "".join(trainer.processing_class.decode(sample["document_ids"]) for sample in trainer.train_dataset)
    assert learned.replace(" ", "") == knowledge.documents[0].text.replace(" ", "")


def test_duplicates_are_trained_as_often_as_they_stand_there(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    texts = ["The same.", "The same.", "The same!", "the same."]
    path.write_text("\n".join(json.dumps({"text": each}) for each in texts), encoding="utf-8")
    trainer = trainer_of(load_knowledge(str(path)), str(tmp_path / "run"))
    assert [sample["sample"] for sample in trainer.train_dataset] == [0, 1, 2, 3]
    trainer.train()


def test_a_hundred_thousand_rows_are_read_and_the_bad_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    lines = [json.dumps({"text": f"Statement {number} is about person {number % 977}."}) for number in range(100_000)]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert len(load_knowledge(str(path)).documents) == 100_000
    lines[87_654] = '{"text": ""}'
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=r"documents\.jsonl:87655: the document is empty"):
        load_knowledge(str(path))
