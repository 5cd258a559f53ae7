"""A search so small that tests can run the real command: a few trajectories, narrow operators, two epochs.

As a script it is the command itself with these search spaces: `python tests/small_search.py --family mackey ...`.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

SMALL_SPACES = {
    "method_of_steps": {
        "learning_rate": (1e-4, 1e-2, "log"),
        "batch_size": [128, 256],
        "width": [8],
        "n_layers": [1, 2],
        "fourier_modes_x": [4],
        "fourier_modes_t": [4, 8],
        "sweeps": [2],
        "sub_windows": [1],
    },
    "memory_kernel": {"learning_rate": (1e-4, 1e-2, "log"), "batch_size": [256], "width": [8]},
    "stacked_history": {"learning_rate": (1e-4, 1e-2, "log"), "batch_size": [256], "width": [8], "rows": [2]},
}
SMALL = ["--model", "method_of_steps", "--family", "mackey", "--max_epochs", "2", "--wandb_mode", "disabled"]
SMALL += ["--n_workers", "1", "--confirm_top", "0"]


def make_data(data_root: Path, family: str = "mackey") -> Path:
    """Datasets of 24 training and 8 other trajectories."""
    sizes = ["--n_train", "24", "--n_val", "8", "--n_test", "8"]
    command = [sys.executable, "-m", "data.generate", "--family", family, *sizes, "--data_root", str(data_root), "-q"]
    subprocess.run(command, cwd=ROOT, check=True)
    return data_root


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(Path(__file__)), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


if __name__ == "__main__":
    import hyperparameter_config

    hyperparameter_config.SEARCH_SPACES.update(SMALL_SPACES)
    from hyperparameter_search import main

    sys.exit(main())
