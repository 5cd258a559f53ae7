"""The fault harness: a search is killed, torn and restarted at random moments; in the end nothing may be missing.

An episode is one study that is killed some times, each time started again by the same command, and then left to end.
Everything random follows from the seed: the same seed gives the same plan of kills (moments of waiting kills are as
exact as the machine's clock; kills before a chosen write hit the same write).
"""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from search.storage import JOURNAL_NAME
from tests.faults import tiny
from tests.faults.checks import problems
from tests.faults.storages import Journal, Postgresql, storages

KINDS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGINT twice", "SIGKILL of a worker", "SIGKILL of all", "write", "power cut")
CODES = {"SIGTERM": (143, -15), "SIGINT": (130, -2), "SIGINT twice": (130, -2)}
MOST_SECONDS = 300.0  # for any one start; more is a hang
TRIALS, MORE_TRIALS = 4, 3
KILLS_OF_AN_EPISODE = 5


@dataclass
class Report:
    """What an episode came to."""

    seed: int
    kills: Counter = field(default_factory=Counter)
    starts: int = 0
    slots: int = 0
    problems: list[str] = field(default_factory=list)

    def line(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        verdict = "nothing lost" if not self.problems else f"{len(self.problems)} PROBLEMS"
        return f"seed {self.seed}: {sum(self.kills.values())} kills ({kinds}), {self.slots} slots finished: {verdict}"


class Episode:
    """One study under fire. `base` is an empty folder."""

    def __init__(
        self,
        seed: int,
        base: Path,
        data_root: Path,
        storage: Journal | Postgresql | None = None,
        pruner: str = "hyperband",
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.results_dir = base
        self.storage = storage or Journal()
        self.report = Report(seed)
        self.n_trials = TRIALS
        self.search_type = str(self.random.choice(["random", "bayesian"]))
        self.model = str(self.random.choice(["memory_kernel", "method_of_steps", "stacked_history"]))
        self.arguments = ["--model", self.model, "--family", "cosine", "--search_type", self.search_type]
        self.arguments += ["--data_root", data_root, "--results_dir", base, "--wandb_mode", "disabled", "-q"]
        max_epochs = 12 if pruner == "promote" else 6  # with a rung at the fourth
        self.arguments += ["--pruner", pruner, "--max_epochs", max_epochs]
        self.arguments += ["--n_workers", self.random.choice([1, 1, 2]), "--confirm_top", 0]
        self.arguments += self.storage.arguments()

    @property
    def study_name(self) -> str:
        return f"{self.model}_cosine_{self.search_type}"

    def run(self, n_kills: int) -> Report:
        """Kills `n_kills` times, lets the search end, and looks at what is there."""
        for _ in range(n_kills):
            kind = str(self.random.choice(KINDS + self.storage.kinds))
            while not self.killed(kind):  # it had ended before: more slots keep it busy
                self.n_trials += MORE_TRIALS
        self.age_temporary_files()
        process = self.start()
        code, said = self.wait(process)
        if code != 0:
            self.report.problems.append(f"the last start ended with {code}: {said[-2000:]}")
        self.report.problems += problems(self.results_dir, self.study_name, self.n_trials, self.storage.open)
        self.report.slots = self.n_trials
        return self.report

    def start(self, die_at_write: int | None = None) -> subprocess.Popen[bytes]:
        self.report.starts += 1
        arguments = [*self.arguments, "--n_trials", self.n_trials]
        output, token = self.beside("txt"), self.beside("token")
        return tiny.start(*arguments, output=output, die_at_write=die_at_write, token=token)

    def beside(self, ending: str) -> Path:
        """A file beside the results folder, another one for every start."""
        return self.results_dir.with_name(f"{self.results_dir.name} {self.report.starts}.{ending}")

    def wait(self, process: subprocess.Popen[bytes]) -> tuple[int, str]:
        """The exit code and the output; a process that hangs is a problem."""
        try:
            process.wait(timeout=MOST_SECONDS)
        except subprocess.TimeoutExpired:
            self.report.problems.append(f"hung for {MOST_SECONDS} s")
            kill_group(process)
            process.wait()
        return process.returncode, self.beside("txt").read_text()

    def killed(self, kind: str) -> bool:
        """Starts the search and kills it; False when it had ended by itself."""
        if kind in ("write", "power cut"):
            process = self.start(die_at_write=int(self.random.integers(1, 90)))
            if kind == "power cut":
                while process.poll() is None and not self.beside("token").exists():
                    time.sleep(0.01)
                kill_group(process)
            code, said = self.wait(process)
            is_dead = self.beside("token").exists()
            if is_dead and kind == "power cut":
                self.tear()
        else:
            process = self.start()
            is_outage = kind in self.storage.kinds
            is_dead = self.outage(process, kind) if is_outage else self.kill_in_time(process, kind)
            code, said = self.wait(process)
            if is_outage and code not in (0, -signal.SIGKILL):
                self.report.problems.append(f"{kind}: the search gave up with {code}: {said[-2000:]}")
            if is_dead and code not in CODES.get(kind, (code,)):
                is_dead = False  # if it ended well, it came after the last trial
        if self.random.random() < 0.5:  # else the workers of a dead search live on into the next start
            kill_group(process)
        if "Traceback" in said:
            self.report.problems.append(f"{kind}: {said[-3000:]}")
        if is_dead:
            self.report.kills[kind] += 1
        elif code != 0:
            self.report.problems.append(f"{kind}: ended by itself with {code}: {said[-2000:]}")
        return is_dead or code != 0

    def kill_in_time(self, process: subprocess.Popen[bytes], kind: str) -> bool:
        """Waits a random time after the first sign of life, now and then none, and kills."""
        if self.random.random() < 0.85:
            self.await_life(process)
        time.sleep(float(self.random.uniform(0, 3)))
        if process.poll() is not None:
            return False
        if kind in ("SIGINT", "SIGINT twice"):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            if kind == "SIGINT twice":
                time.sleep(float(self.random.uniform(0, 0.5)))
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGINT)
        elif kind == "SIGTERM":
            process.terminate()
        elif kind == "SIGKILL of a worker":
            workers = [c for c in psutil.Process(process.pid).children() if "spawn_main" in " ".join(c.cmdline())]
            (workers[int(self.random.integers(len(workers)))] if workers else psutil.Process(process.pid)).kill()
        elif kind == "SIGKILL of all":
            kill_group(process)
        else:
            process.kill()
        return True

    def await_life(self, process: subprocess.Popen[bytes]) -> None:
        seen, until = self.storage.signs_of_life(self.results_dir), time.monotonic() + MOST_SECONDS
        while self.storage.signs_of_life(self.results_dir) == seen and process.poll() is None:
            time.sleep(0.01)
            if time.monotonic() > until:
                break

    def outage(self, process: subprocess.Popen[bytes], kind: str) -> bool:
        """The server fails for some seconds; the search waits for it and goes on, or is killed meanwhile."""
        self.await_life(process)
        time.sleep(float(self.random.uniform(0, 3)))
        if process.poll() is not None:
            return False
        self.storage.fail(kind, self.random)
        if kind == "search and server killed":
            kill_group(process)
        self.storage.recover()
        if kind != "search and server killed":
            self.await_life(process)
            time.sleep(float(self.random.uniform(0, 3)))
            if process.poll() is None:
                process.kill()
        return True

    def tear(self) -> None:
        """What a power cut does to files that were being written: their last bytes are missing."""
        torn = [self.results_dir / JOURNAL_NAME, *self.results_dir.glob("*/.partial.*")]
        torn += [p for p in self.results_dir.glob("*/metrics.csv") if not (p.parent / "final_results.json").exists()]
        for path in torn:
            if not path.exists() or path.stat().st_size == 0:
                continue
            content = path.read_bytes()
            last = len(content) - (content.rstrip(b"\n").rfind(b"\n") + 1)  # of the last record, which may be torn
            cut = int(self.random.integers(0, last + 1))
            path.write_bytes(content[: len(content) - cut])

    def age_temporary_files(self) -> None:
        """A day passes: what a dead process left is then surely nobody's."""
        yesterday = time.time() - 86400
        for path in self.results_dir.rglob("*"):
            if path.is_dir() or ".partial" in path.name:
                os.utime(path, (yesterday, yesterday))


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kills the search and its workers, those that there are."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def run(seed: int, n_kills: int, storage: str = "journal", pruner: str = "hyperband") -> list[Report]:
    """Episodes until `n_kills` kills are done, each with a seed of its own; prints a line each."""
    reports: list[Report] = []
    with tempfile.TemporaryDirectory() as base, storages(storage) as new_storage:
        data_root = tiny.make_data(Path(base) / "data")
        while sum(sum(report.kills.values()) for report in reports) < n_kills:
            name = f"episode {seed + len(reports)}"
            folder = Path(base) / name
            folder.mkdir()
            episode = Episode(seed + len(reports), folder, data_root, new_storage(name), pruner)
            reports.append(episode.run(KILLS_OF_AN_EPISODE))
            print(reports[-1].line(), flush=True)
            for problem in reports[-1].problems:
                print(f"  {problem}", flush=True)
    return reports


def summary(reports: list[Report]) -> str:
    kills = sum((report.kills for report in reports), Counter())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(kills.items()))
    bad = [report.seed for report in reports if report.problems]
    return (
        f"{sum(kills.values())} kills ({kinds}) in {len(reports)} studies, {sum(r.starts for r in reports)} starts, "
        f"{sum(r.slots for r in reports)} slots finished; "
        + (f"problems with seeds {', '.join(map(str, bad))}" if bad else "none lost, duplicated or stuck")
    )
