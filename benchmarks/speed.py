"""Speed against named peers and against plain forms of the same computation: ratios, each measured in one run.

    python benchmarks/speed.py
    python benchmarks/speed.py --only layers operators

What is compared runs interleaved, one thread, and medians over the rounds are divided, so that other work on the
machine hits both sides alike. Times are CPU seconds on a CPU and seconds of the clock on a GPU. Peers are optional:
`pip install -r benchmarks/requirements-peers.txt`; what is missing is named and left out. The table is printed and
written to benchmarks/measured/speed.json.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import OUTPUT, write_results  # noqa: E402

if TYPE_CHECKING:
    import numpy as np
    import torch

    import dno
    from data.families import Family
    from data.trajectories import Draw

Call = Callable[[], object]
# name: points in s, points in x, modes in s, modes in x, batch, width, layers
SHAPES = {
    "1-D N 512 C 64 m 16": (512, 1, 16, 1, 32, 64, 4),
    "1-D N 64 C 32 m 16": (64, 1, 16, 1, 32, 32, 4),
    "2-D 32x20 C 64 m 12x8": (32, 20, 12, 8, 32, 64, 4),
}
SEARCHED = {"1-D N 33 C 32 m 12": (33, 1, 12, 1, 32, 32, 4), "1-D N 51 C 32 m 8": (51, 1, 8, 1, 32, 32, 4)}


@dataclass(frozen=True)
class Row:
    """One figure; `target` and `holds` are absent where none was set."""

    name: str
    value: float
    unit: str
    target: float | None = None
    holds: bool | None = None


def ratio(name: str, ours: float, theirs: float, target: float | None = None) -> Row:
    """How many times faster ours is."""
    value = theirs / ours
    print(f"{name}: {1e3 * ours:.3g} ms against {1e3 * theirs:.3g} ms, {value:.2f}x", flush=True)
    return Row(name, round(value, 3), "times faster", target, None if target is None else value >= target)


def medians(calls: dict[str, Call], seconds: float, clock: Callable[[], float] = time.process_time) -> dict[str, float]:
    """Median time of a call: two to warm up, then four of each by turns for `seconds`, as a step follows a step."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, call in calls.items():
            for _ in range(4):
                start = clock()
                call()
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def training_step(module: torch.nn.Module, x: torch.Tensor) -> Call:
    """Forward, backward and an AdamW step on the mean square of the output; fused where no parameter is complex."""
    import torch

    is_real = not any(parameter.is_complex() for parameter in module.parameters())
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=is_real or None)

    def step() -> None:
        module(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def layer_stack(shape: tuple[int, ...]) -> torch.nn.Module:
    """Fourier layers between two linear maps, on fields (S, X, B, 1)."""
    from torch import nn

    from dno.fourier_layer import FourierLayer, FourierLayers

    points, space, modes_t, modes_x, _, width, n_layers = shape
    layers = [FourierLayer(points, space, modes_t, modes_x, width, 0.0) for _ in range(n_layers)]
    return nn.Sequential(nn.Linear(1, width), FourierLayers(layers), nn.Linear(width, 1))


def within_plain(call: Call) -> Call:
    """The same call with the plain layers."""
    from benchmarks.plain_layers import plain

    def wrapped() -> None:
        with plain():
            call()

    return wrapped


def layers(seconds: float) -> list[Row]:
    """A stack of Fourier layers against rfft + einsum, and against neuraloperator."""
    import torch

    from benchmarks import peers

    rows = []
    for name, shape in (SHAPES | SEARCHED).items():
        points, space, batch = shape[0], shape[1], shape[4]
        ours = training_step(layer_stack(shape), torch.randn(points, space, batch, 1))
        plain = training_step(layer_stack(shape), torch.randn(points, space, batch, 1))
        calls = {"ours": ours, "plain": within_plain(plain)}
        field = torch.randn(batch, 1, points, *([space] if space > 1 else []))
        for kind in ("same", "default") if peers.has("neuralop") and name in SHAPES else ():
            calls[kind] = training_step(peers.neural_operator(shape, kind), field)
        found = medians(calls, seconds)
        goal = 2.0 if name in SEARCHED else None
        rows.append(ratio(f"step against rfft + einsum, {name}", found["ours"], found["plain"], goal))
        goals = {"same": 1.7 if space > 1 else 1.5, "default": 2.6 if space > 1 else 3.8 if points <= 64 else 2.8}
        for kind, words in (("same", "same architecture"), ("default", "out of the box")):
            if kind in found:
                title = f"step against neuraloperator 2.0.0, {words}, {name}"
                rows.append(ratio(title, found["ours"], found[kind], goals[kind]))
        rows.append(Row(f"step of {name}", round(1e3 * found["ours"], 3), "ms"))
        rows.append(
            Row(f"products of {name}, forward and backward", round(giga_operations(shape), 3), "10^9 operations")
        )
    return rows


def giga_operations(shape: tuple[int, ...]) -> float:
    """Multiplications and additions of the layers' matrix products: three times the forward ones."""
    points, space, modes_t, modes_x, batch, width, n_layers = shape
    waves = 2 * modes_x - 1 if space > 1 else 1
    pointwise = 2 * points * space * batch * width**2
    transforms = 2 * 2 * (2 * modes_t * points * space * batch * width)
    transforms += 2 * 2 * modes_t * (2 * waves * 2 * space * batch * width) if space > 1 else 0
    mixing = 2 * modes_t * waves * 2 * batch * width * 2 * width
    return n_layers * (3 * pointwise + 2 * transforms + 3 * mixing) / 1e9


def operator_spec(spatial: bool) -> dno.OperatorSpec:
    """Shapes and traits as of reaction_diffusion, or of mackey."""
    import dno

    if spatial:
        return dno.OperatorSpec(20, 50, ("D", "r"), frozenset({"positive", "spatial"}))
    return dno.OperatorSpec(1, 32, ("r", "K"), frozenset({"positive"}))


def operator_step(model: str, spatial: bool) -> Call:
    """The whole training step of an operator at its default hyperparameters, on a random batch of 32 target rows."""
    import torch

    import dno
    import model_optimizer

    spec = operator_spec(spatial)
    torch.manual_seed(0)
    operator = dno.build_operator(model, {}, spec)
    crops = 32 // operator.target_rows
    count = operator.past_rows + operator.target_rows
    rows = torch.rand(crops, count, spec.points_per_delay + 1, spec.channels) + 0.5
    present = torch.ones(crops, count, dtype=torch.bool)
    tau, params = torch.rand(crops) + 0.5, torch.randn(crops, 2)
    optimizer = model_optimizer.make_optimizer(operator, "muon", 1e-5)
    optimizer.set_rate(1e-4)
    order = torch.Generator()

    def step() -> None:
        optimizer.zero_grad()
        operator.training_loss(rows, present, tau, params, 0.5, order).backward()
        optimizer.clip(1.0)
        optimizer.step()

    return step


def operators(seconds: float) -> list[Row]:
    """Each operator's step against the same operator with plain layers."""
    import dno

    rows = []
    for spatial in (False, True):
        for model in dno.MODELS:
            calls = {"ours": operator_step(model, spatial), "plain": within_plain(operator_step(model, spatial))}
            found = medians(calls, seconds)
            kind = "in space" if spatial else "scalar"
            rows.append(ratio(f"{model}, {kind}: step against plain layers", found["ours"], found["plain"]))
            rows.append(Row(f"{model}, {kind}: step", round(1e3 * found["ours"], 3), "ms"))
    return rows


def data_path(seconds: float) -> list[Row]:
    """An epoch of 2048 windows drawn by index, against a DataLoader that cuts, pads and collates sample by sample."""
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from torch.utils.data import DataLoader, Dataset

    from data.batches import RowWindows, Split

    n, points = 1000, 32
    steps = torch.randint(10 * points, 20 * points, (n,))
    split = Split("train", torch.rand(n, points + 1, 1), torch.rand(n) + 1, torch.rand(n, 3), torch.rand(n, 640, 1),
                  torch.arange(640) < steps[:, None], steps)  # fmt: skip
    windows, order = RowWindows(split, 1, 1, 0.25), torch.Generator()

    class Trajectories(Dataset):
        """One trajectory an item, as a file holds it: a random window of it, and what comes before."""

        def __len__(self) -> int:
            return 2048

        def __getitem__(self, item: int) -> tuple[torch.Tensor, ...]:
            index = item % n
            path = torch.cat([split.history[index], split.solution[index, : steps[index]]])
            start = int(torch.randint(int(steps[index]) // points, ()))
            return (
                path[: points * (start + 1) + 1],
                path[points * (start + 1) :][:points],
                split.tau[index],
                split.params[index],
            )

    def collate(samples: list[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
        before, after, tau, params = zip(*samples, strict=True)
        present = pad_sequence([torch.ones(len(values), dtype=torch.bool) for values in before], batch_first=True)
        return (
            pad_sequence(before, batch_first=True),
            present,
            torch.stack(after),
            torch.stack(tau),
            torch.stack(params),
        )

    loader = DataLoader(Trajectories(), batch_size=32, shuffle=True, collate_fn=collate)
    calls: dict[str, Call] = {
        "ours": lambda: [
            tuple(values[step] for values in epoch)
            for epoch in [[values.unflatten(0, (64, 32)) for values in windows.draw(2048, order)]]
            for step in range(64)
        ],
        "loader": lambda: list(loader),
    }
    found = medians(calls, seconds)
    return [
        ratio("data of an epoch of 2048 windows, against DataLoader and collate", found["ours"], found["loader"], 50.0)
    ]


def solver(seconds: float) -> list[Row]:
    """Batches of 1000, and one by `data.solve`, against jitcdde at rtol 1e-8 and ddeint, where they are installed."""
    import numpy as np

    from benchmarks import peers
    from data import solve
    from data.families import FAMILIES
    from data.trajectories import _solve, draw_split

    rows = []
    for name, family in FAMILIES.items():
        draws = draw_split(family, "train", 1000, 0)
        first = draws[0]
        horizon = family.horizon * (first.tau if family.horizon_unit == "delays" else 1)
        times = np.linspace(0, horizon, 11)[1:]  # as jitcdde is asked

        def many(family: Family = family, draws: list[Draw] = draws) -> np.ndarray:
            return _solve(family, draws, 1.0)[1]

        def alone(family: Family = family, first: Draw = first, times: np.ndarray = times) -> np.ndarray:
            return solve(family, lambda t: first.history(t / first.tau), first.tau, first.params, times)

        found = medians({"many": many, "alone": alone}, seconds)
        each, one = found["many"] / len(draws), found["alone"]
        rows.append(Row(f"solver, {name}: batch of 1000, each", round(1e6 * each, 1), "µs"))
        rows.append(Row(f"solver, {name}: largest error of 1000", float(many().max()), "relative L2"))
        rows.append(Row(f"solver, {name}: one by data.solve, to 1e-12", round(1e3 * one, 3), "ms"))
        print(f"solver, {name}: {1e6 * each:.0f} µs of 1000, {1e3 * one:.2f} ms alone", flush=True)
        if peers.has("jitcdde") and "neutral" not in family.traits:  # it has no neutral equations of this form
            theirs, error = peers.jitcdde_seconds(family, draws[:5])
            rows.append(Row(f"error of jitcdde, {name}", error, "relative L2, median"))
            goal = 12 if "spatial" in family.traits else 200
            rows.append(ratio(f"solver against jitcdde, {name}, batch of 1000", each, theirs, goal))
            rows.append(ratio(f"solver against jitcdde, {name}, one by data.solve", one, theirs, 1.0))
        if peers.has("ddeint") and name == "mackey":
            theirs, error = peers.ddeint_seconds(family, draws[0])
            rows.append(Row("error of ddeint, mackey", error, "relative L2"))
            rows.append(ratio("solver against ddeint, mackey, one by data.solve", one, theirs))
    return rows


def search(seconds: float) -> list[Row]:
    """A real search of eight short trials: what it spends beside training, and what a second worker brings."""
    trials, epochs = 8, max(2, round(seconds))
    rows, spent = [], {}
    with tempfile.TemporaryDirectory() as folder:
        data = ["--data_root", f"{folder}/data"]
        subprocess.run([sys.executable, "-m", "data.generate", "--family", "mackey", *data, "-q"], cwd=ROOT, check=True)
        for workers in (1, 2):
            flags = f"--n_trials {trials} --max_epochs {epochs} --n_workers {workers} --results_dir {folder}/{workers}"
            fixed = "--search_type random --model method_of_steps --family mackey --pruner none --confirm_top 0 -q"
            command = ["hyperparameter_search.py", *data, *flags.split(), *fixed.split(), "--wandb_mode", "offline"]
            start = time.perf_counter()
            text = subprocess.run(
                [sys.executable, *command], cwd=ROOT, check=True, capture_output=True, text=True
            ).stdout
            spent[workers] = time.perf_counter() - start
            whole, beside = map(float, re.search(r"time: ([\d.]+) s.*everything else .* ([\d.]+) s \(", text).groups())
            share = 100 * beside / whole
            print(f"search, {workers} workers: {spent[workers]:.1f} s, {share:.1f} % beside training", flush=True)
            if workers == 1:
                name = f"search of {trials} trials of {epochs} epochs, time beside training"
                rows.append(Row(name, round(share, 1), "%"))
    return [*rows, ratio(f"two workers against one, {trials} trials (needs two idle cores)", spent[2], spent[1], 1.8)]


def start_up(seconds: float) -> list[Row]:
    """CPU seconds of --help and of the imports of a training, and the peak memory of this run."""
    rows = []
    for name, words in (
        ("--help", ["hyperparameter_search.py", "--help"]),
        ("imports", ["-c", "import model_trainer"]),
    ):
        times = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        rows.append(Row(f"start-up, {name}", round(statistics.median(times), 3), "s"))
        print(f"start-up, {name}: {statistics.median(times):.2f} s", flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [*rows, Row("peak memory of this benchmark", round(memory), "MiB")]


PARTS = {
    "layers": layers,
    "operators": operators,
    "data": data_path,
    "solver": solver,
    "search": search,
    "start_up": start_up,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS], help="parts (default: all)")
    parser.add_argument("--seconds", type=float, default=10, help="time of each comparison (default: 10)")
    parser.add_argument("--output", type=Path, default=OUTPUT / "speed.json")
    arguments = parser.parse_args()
    from search.environment import prepare_process

    prepare_process()
    import torch

    from benchmarks import peers

    torch.set_num_threads(1)
    for name in ("neuralop", "jitcdde", "ddeint"):
        if not peers.has(name):
            print(f"{name} is not installed: left out (pip install -r benchmarks/requirements-peers.txt)")
    rows = [row for part in arguments.only for row in PARTS[part](arguments.seconds)]
    for row in rows:
        if row.holds is not None:
            print(f"{'holds' if row.holds else 'FAILS'}  {row.name}: {row.value:.2f}, at least {row.target:g}")
    write_results(
        arguments.output,
        device=f"{platform.machine()}, {os.cpu_count()} cores, one thread; load {os.getloadavg()[0]:.1f}",
        command=f"python benchmarks/speed.py --only {' '.join(arguments.only)} --seconds {arguments.seconds:g}",
        rows=[{key: value for key, value in asdict(row).items() if value is not None} for row in rows],
        torch=torch.__version__,
    )
    return 0 if all(row.holds is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
