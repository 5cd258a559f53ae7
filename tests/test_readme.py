"""The README's promises, by running them: its fifth family goes through the tools without another change."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def run(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python_block(containing: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    return next(block for block in blocks if containing in block)


def test_fifth_family_is_generated_searched_and_reported(tmp_path):
    clone = tmp_path / "clone"
    keep_out = shutil.ignore_patterns(
        ".git", "*.h5", "__pycache__", "hyperparameter_results", "visualizations", ".venv"
    )
    shutil.copytree(ROOT, clone, ignore=keep_out)
    families = clone / "data" / "families.py"
    families.write_text(families.read_text() + "\n" + python_block("IKEDA"))
    run(clone, "-m", "data.generate", "--family", "ikeda", "--n_train", "24", "--n_val", "8", "--n_test", "8", "-q")
    search = ["--family", "ikeda", "--model", "method_of_steps", "--n_trials", "2", "--max_epochs", "1"]
    board = run(clone, "hyperparameter_search.py", *search, "--confirm_top", "0", "--wandb_mode", "disabled", "-q")
    assert "ikeda" in board
    run(clone, "advanced_visualizations.py")
    assert "ikeda" in (clone / "visualizations" / "report.html").read_text()


def test_readme_has_every_heading_and_is_short():
    assert README.count("\n") <= 250
    for heading in (
        "Quick start",
        "Command line",
        "Search spaces",
        "Outputs",
        "Troubleshooting",
        "Citation",
        "Support",
    ):
        assert re.search(rf"^#+ {heading}", README, flags=re.MULTILINE), heading


def test_flags_of_the_readme_exist():
    flags = set(re.findall(r"--[a-z_]+", README)) - {"--family", "--seconds"}
    known = "".join(
        run(ROOT, *command, "--help") for command in (["hyperparameter_search.py"], ["-m", "data.generate"])
    )
    assert {flag for flag in flags if flag not in known} == set()
