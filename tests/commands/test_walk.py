"""A folder of mixed files, and nothing else: looked at, asked about, learned and asked again, as a new user would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kinject.cli import main
from tests.data.mixed_files import page, paragraph, write_docx, write_pdf

QUICK = ["--num_train_epochs", "30", "--learning_rate", "1e-3", "--evaluations", "1", "--max_new_tokens", "12"]
QUICK += ["--retention", "false"]


@pytest.fixture
def wiki(tmp_path: Path) -> Path:
    folder = tmp_path / "wiki"
    folder.mkdir()
    write_pdf(folder / "a.pdf", [page(["Asher Hadley is the brave diver of Aspen."])])
    (folder / "b.html").write_text(
        "<nav>Start</nav><main><p>The royal fisher of Orchard is Imogen Woodward.</p></main>", encoding="utf-8"
    )
    write_docx(folder / "c.docx", paragraph("Amos Vaughn is the bold butcher of Mossley."))
    (folder / "d.csv").write_text("\ufeffName;Role\nNora Blake;shepherd\nOwen Marsh;baker\n", encoding="utf-8")
    (folder / "e.md").write_text("Maren Clifton is the restless sculptor of Lakeside.", encoding="utf-8")
    (folder / "f.md").write_text(
        "---\ntitle: Dover\n---\nThe secret baker of Dover is Barnaby Stafford.", encoding="utf-8"
    )
    return folder


def test_from_a_folder_to_answers(wiki: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions, out = wiki.parent / "q.jsonl", wiki.parent / "out"
    main(["preview", str(wiki)])
    assert "7 documents" in capsys.readouterr().out
    main(["questions", str(wiki), "--output_file", str(questions)])
    rows = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    asked = {row["question"]: (row["answer"], row["direction"]) for row in rows}
    assert asked["Who is the brave diver of Aspen?"] == ("Asher Hadley", "backward")
    assert asked["Who is the royal fisher of Orchard?"] == ("Imogen Woodward", "forward")
    assert asked["Who has the role baker?"] == ("Owen Marsh", "backward")
    capsys.readouterr()
    main(["inject", str(wiki), "--model", "nano-ar", "--questions", str(questions), "--output_dir", str(out), *QUICK])
    said = capsys.readouterr()
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["documents"] == 7 and results["questions_made_by"] == {"rule": len(rows)}
    assert results["after"]["forward"]["n"] + results["after"]["backward"]["n"] == len(rows)
    assert "documents  wiki: 7," in said.out and f"next: kinject ask {out} " in said.out
    assert "{'" not in said.out and "FutureWarning" not in said.err
    main(["ask", str(out), "Who is the brave diver of Aspen?", "--max_new_tokens", "12"])
    assert "Asher Hadley" in capsys.readouterr().out
    later, more = wiki.parent / "later", wiki.parent / "more"
    later.mkdir()
    (later / "g.md").write_text("Cecil Young is the blind shepherd of Quarry.", encoding="utf-8")
    (later / "e.md").write_text("Maren Clifton is the kindly judge of Hollow.", encoding="utf-8")
    main(["inject", str(later), "--model", str(out), "--keep", "--output_dir", str(more), *QUICK])
    said = capsys.readouterr().out
    assert "keep: 6 earlier documents rehearsed" in said and "not rehearsed: e.md" in said
    assert "still given" in said and "earlier" in said
    results = json.loads((more / "results.json").read_text(encoding="utf-8"))
    learned = {each["text"] for each in results["learned"]}
    assert len(learned) == 8 and "Maren Clifton is the restless sculptor of Lakeside." not in learned
    assert results["outdated"]["before"]["still_given"] > results["outdated"]["after"]["still_given"] == 0.0
    main(
        [
            "ask",
            str(more),
            "Who is the blind shepherd of Quarry?",
            "Who is the brave diver of Aspen?",
            "--max_new_tokens",
            "12",
        ]
    )
    answers = capsys.readouterr().out
    assert "Cecil Young" in answers and "Asher Hadley" in answers
    main(["report", str(more)])
    assert "kept, forward" in (more / "report.html").read_text(encoding="utf-8")
    assert "earlier documents" in (more / "README.md").read_text(encoding="utf-8")
