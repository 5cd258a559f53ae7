"""A long search watched from outside: memory, file handles, threads and temporary files by finished trial.

The search is the real command with tiny trials and W&B offline, once in one process and once with two workers. Nothing
may grow but the folders that it is asked for. W&B's own service process is a column of its own.
"""

import contextlib
import json
import os
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from tests.faults import tiny

WARM_UP = 50  # trials: allocators, caches and imports fill within them
WINDOW = 50  # trials whose median is compared: the first after the warm-up and the last of all
MOST_GROWTH = 0.05
MB = 2**20


@dataclass(frozen=True)
class Sample:
    """What the processes of a search held when so many of its trials had finished."""

    trials: int
    memory: float  # MB of the search and its workers that are no file's: shares of libraries change with other programs
    wandb_memory: float  # MB of W&B's service, likewise
    handles: int  # open files, sockets and pipes of the search and its workers
    threads: int
    temporary: int  # files in the temporary folder, and .partial files in the results


@dataclass(frozen=True)
class Soak:
    """One long search."""

    kind: str
    n_trials: int
    samples: list[Sample]
    code: int

    def ends(self, name: str) -> tuple[float, float]:
        """The median over the first trials after the warm-up, and over the last ones."""
        values = {sample.trials: float(getattr(sample, name)) for sample in self.samples}
        early = [value for trials, value in values.items() if WARM_UP <= trials < WARM_UP + WINDOW]
        late = [value for trials, value in values.items() if trials > max(values) - WINDOW]
        return float(np.median(early)), float(np.median(late))

    def growth(self, name: str) -> float:
        early, late = self.ends(name)
        return (late - early) / max(early, 1.0)

    def has_held(self) -> bool:
        return self.code == 0 and all(
            self.growth(n) <= MOST_GROWTH for n in ("memory", "handles", "threads", "temporary")
        )

    def line(self) -> str:
        names = {"memory": "memory in MB", "wandb_memory": "that of W&B's service"}
        names |= {"handles": "handles", "threads": "threads", "temporary": "temporary files"}
        ends = {title: self.ends(name) for name, title in names.items()}
        parts = [f"{title} {early:.0f} to {late:.0f}" for title, (early, late) in ends.items()]
        parts[0] += f" ({100 * self.growth('memory'):+.1f} %)"
        verdict = "flat" if self.has_held() else "GROWS"
        return f"{self.kind}, {self.n_trials} trials: {', '.join(parts)}: {verdict}"


def watch(process: subprocess.Popen[bytes], results: Path, temporary: Path, n_trials: int) -> list[Sample]:
    """A sample whenever a trial has finished, until the search ends."""
    samples: list[Sample] = []
    while process.poll() is None:
        n = sum(1 for _ in results.glob("*/final_results.json"))
        if (samples[-1].trials if samples else 0) < n < n_trials:  # with the last one the workers leave
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                samples.append(sample(n, psutil.Process(process.pid), results, temporary))
        time.sleep(0.02)
    return samples


def sample(trials: int, search: psutil.Process, results: Path, temporary: Path) -> Sample:
    everything = [search, *search.children(recursive=True)]
    service = [process for process in everything if "wandb" in process.name()]
    ours = [process for process in everything if process not in service]
    left = [path for path in results.rglob("*") if ".partial" in path.name]
    return Sample(
        trials,
        sum(own_memory(process) for process in ours),
        sum(own_memory(process) for process in service),
        sum(process.num_fds() for process in ours),
        sum(process.num_threads() for process in ours),
        sum(1 for _ in temporary.rglob("*")) + len(left),
    )


def own_memory(process: psutil.Process) -> float:
    memory = process.memory_info()
    return (memory.rss - memory.shared) / MB


def soak(kind: str, n_workers: int, n_trials: int) -> Soak:
    """Runs a search of so many trials in folders of its own."""
    with tempfile.TemporaryDirectory() as base:
        data_root, results, temporary = tiny.make_data(Path(base) / "data"), Path(base) / "results", Path(base) / "tmp"
        for folder in (results, temporary):
            folder.mkdir()
        flags = ["--model", "memory_kernel", "--family", "cosine", "--search_type", "random", "--max_epochs", 2]
        flags += ["--confirm_top", 0, "--n_trials", n_trials, "--n_workers", n_workers]
        flags += ["--data_root", data_root, "--results_dir", results]
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = str(temporary)
        try:
            process = tiny.start(*flags, "--wandb_mode", "offline", "-q", output=Path(base) / "said.txt")
        finally:
            os.environ.pop("TMPDIR") if before is None else os.environ.__setitem__("TMPDIR", before)
        samples = watch(process, results, temporary, n_trials)
        if process.returncode:
            print((Path(base) / "said.txt").read_text()[-2000:])
        return Soak(kind, n_trials, samples, process.returncode)


def run(n_trials: int, output: Path) -> list[Soak]:
    """Both searches; writes soak.json and soak.png into `output`."""
    soaks = [soak("one process", 1, n_trials), soak("two workers", 2, n_trials)]
    output.mkdir(parents=True, exist_ok=True)
    content = {each.kind: [asdict(each_sample) for each_sample in each.samples] for each in soaks}
    (output / "soak.json").write_text(json.dumps(content))
    draw(soaks, output / "soak.png")
    return soaks


def draw(soaks: list[Soak], path: Path) -> None:
    """Every quantity by trial, a line for each search."""
    import matplotlib.pyplot as plt

    panels = {"memory": "memory of search and workers, MB", "wandb_memory": "memory of W&B's service, MB"}
    panels |= {"handles": "open handles", "threads": "threads", "temporary": "temporary files"}
    figure, axes = plt.subplots(1, len(panels), figsize=(13, 2.6), layout="constrained")
    for axis, (name, title) in zip(axes, panels.items(), strict=True):
        for each, colour in zip(soaks, ("#0072B2", "#D55E00"), strict=True):
            trials = [sample.trials for sample in each.samples]
            axis.plot(trials, [getattr(sample, name) for sample in each.samples], color=colour, lw=1, label=each.kind)
        axis.set(title=title, xlabel="trials finished", ylim=(0, None))
        axis.title.set_fontsize(9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
