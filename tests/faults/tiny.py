"""The search command itself with a space so small that a trial takes a fraction of a second.

As a script it is `hyperparameter_search.py`. With `DIE_AT_WRITE=N FILE` in its environment the first of its processes
to come so far kills itself just before its N-th write below `--results_dir` (SIGKILL: no handler, no clean-up); a name
instead of N stands for the first write of a path that ends with it. Python's audit hook sees the writes, so the program
itself knows nothing of it.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

SPACE = {"learning_rate": (1e-4, 1e-2, "log"), "batch_size": [128], "width": [4, 6], "n_layers": [1]}
SPACES = dict.fromkeys(("memory_kernel", "method_of_steps", "stacked_history"), SPACE)
SPACES["method_of_steps"] = SPACE | {"sweeps": [2], "sub_windows": [1], "fourier_modes_t": [4]}
WRITES = {
    "open": 0,
    "os.mkdir": 0,
    "os.rename": 1,
    "os.remove": 0,
    "os.truncate": 0,
    "os.rmdir": 0,
}  # place of the path


def make_data(data_root: Path) -> Path:
    """The datasets of a family of the user's own, with a closed form: 40 trajectories of 8 points per delay."""
    from cosine_family import make_datasets

    from data import store

    for split, dataset in make_datasets(optional=False).items():
        provenance = store.Provenance("x'(t) = -w x(t - tau)", 0, {"count": len(dataset.tau)}, {"method": "exact"}, 0)
        store.write(store.dataset_path(data_root, "cosine", split), dataset, provenance)
    return data_root


def start(
    *arguments: object, output: Path, die_at_write: int | str | None = None, token: Path | None = None
) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, its output in a file: a pipe would wait for workers that live on.

    The file `token` appears when one of its processes killed itself.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if die_at_write is not None:
        environment["DIE_AT_WRITE"] = f"{die_at_write} {token}"
    command = [sys.executable, __file__, *map(str, arguments)]
    with open(output, "wb") as file:
        # A harness that runs in the background ignores Ctrl-C, and its children would inherit that.
        heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
        return subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, start_new_session=True, preexec_fn=heed
        )


def die_at_write(moment: str, token: str, results_dir: str) -> None:
    """Kills this process before its N-th write below the results folder, or that of a name, if no other did before."""
    left = int(moment) if moment.isdigit() else 1
    ending = "" if moment.isdigit() else moment

    def hook(event: str, arguments: tuple) -> None:
        nonlocal left
        if event not in WRITES:
            return
        path = arguments[WRITES[event]]
        if event == "open" and (arguments[1] or "r").startswith("r") and not (arguments[2] or 0) & os.O_CREAT:
            return
        is_path = isinstance(path, str | os.PathLike) and str(path).endswith(ending)
        if is_path and os.path.abspath(path).startswith(results_dir):
            left -= 1
            if left == 0 and not os.path.exists(token):
                os.close(os.open(token, os.O_CREAT))
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ in ("__main__", "__mp_main__") and "DIE_AT_WRITE" in os.environ:
    folder = sys.argv[sys.argv.index("--results_dir") + 1]
    moment, token = os.environ["DIE_AT_WRITE"].split(" ", 1)
    die_at_write(moment, token, os.path.abspath(folder))

if __name__ == "__main__":
    try:
        import hyperparameter_config

        hyperparameter_config.SEARCH_SPACES.update(SPACES)
        from hyperparameter_search import run

        run()
    except KeyboardInterrupt:  # in its first moments, as in the command itself
        sys.exit(130)
