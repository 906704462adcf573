"""`kinject preview` and `kinject questions` as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kinject.cli import main


@pytest.fixture
def wiki(tmp_path: Path) -> Path:
    folder = tmp_path / "wiki"
    folder.mkdir()
    (folder / "a.md").write_text(
        "---\ntitle: The coast\n---\nMira Dorn keeps the lighthouse of Vell.", encoding="utf-8"
    )
    (folder / "b.csv").write_text("Name,Role\nBo Marlow,captain\n", encoding="utf-8")
    (folder / "photo.png").write_bytes(b"x")
    return folder


def test_preview(wiki: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    main(["preview", str(wiki), "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert [each["begins"] for each in shown["documents"]] == [
        "The coast Mira Dorn keeps the lighthouse of Vell.",
        "Name: Bo Marlow Role: captain",
    ]
    assert shown["documents"][0]["entities"] == ["Mira Dorn"] and shown["tokens_are_estimated"] is True
    assert shown["questions_by_rule"] == {"forward": 2, "backward": 3}
    assert "▒" in shown["masked_sample"] and len(shown["masked_sample"]) == len(
        "The coast\n\nMira Dorn keeps the lighthouse of Vell."
    )
    assert "1 .png" in caplog.text
    main(["preview", str(wiki)])
    text = capsys.readouterr().out
    assert "2 documents, about" in text and "2 forward and 3 backward ones can be made by rule" in text


def test_preview_shows_its_numbers_in_a_narrow_terminal(
    wiki: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    (wiki / ("long_name_" * 5 + ".txt")).write_text("Ada Quill paints boats. " * 9, encoding="utf-8")
    main(["preview", str(wiki)])
    head, _, *rows = [line for line in capsys.readouterr().out.splitlines() if line.strip()][:5]
    assert head.split() == ["document", "tokens", "pieces", "entities", "begins"]
    assert max(map(len, rows)) <= 60
    assert [row[head.index("pieces") :].split()[0] for row in rows] == ["1", "1", "1"]
    assert rows[2].split()[0].startswith("long_name") and rows[2].count("…") == 2


def test_preview_counts_the_tokens_of_a_model(wiki: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["preview", str(wiki), "--json", "--model", "nano-ar", "--max_length", "8"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["tokens_are_estimated"] is False
    assert shown["pieces"] == sum(-(-2 * each["tokens"] // 8) for each in shown["documents"]) > 2


def test_questions_are_written_once(wiki: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = wiki.parent / "q.jsonl"
    main(["questions", str(wiki), "--output_file", str(file)])
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert {"question": "What is the role of Bo Marlow?", "answer": "captain", "direction": "forward",
            "group": "made by rule", "task": "question"} in rows  # fmt: skip
    assert f"kinject inject {wiki} --questions {file}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["questions", str(wiki), "--output_file", str(file)])
    assert stopped.value.code == 2 and "--overwrite" in capsys.readouterr().err
    main(["questions", str(wiki), "--count", "2"])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_documents_that_nothing_can_be_asked_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("nothing to see here", encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["questions", str(tmp_path / "a.txt")])
    assert "no question could be made: the rules found no sentence" in capsys.readouterr().err
