"""Importing the package stays light: heavy libraries load when a name that needs them is used."""

from __future__ import annotations

import subprocess
import sys

import kinject.evaluation


def test_importing_the_package_loads_no_heavy_library() -> None:
    program = (
        "import sys, kinject.evaluation\n"
        "from kinject.evaluation import paper_recall, score_answers, results_table\n"
        "heavy = {'torch', 'transformers', 'evaluate', 'matplotlib', 'datasets', 'trl'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_exists() -> None:
    for name in kinject.evaluation.__all__:
        assert getattr(kinject.evaluation, name) is not None
    assert set(kinject.evaluation.__all__) == set(dir(kinject.evaluation))
    assert not hasattr(kinject.evaluation, "nothing")
