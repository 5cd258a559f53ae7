"""Speed on a CUDA GPU: layers, whole steps and rollouts, eager and as graphs, and many small trainings on one GPU.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --only steps rollouts

Needs torch, numpy and h5py; neuraloperator is compared with where it is installed, and the part `trainings` needs
the generated datasets. Times are seconds of the clock, the device waited for; what is compared runs
interleaved, and medians are divided. Written to benchmarks/measured/gpu.json.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import OUTPUT, write_results  # noqa: E402
from benchmarks.speed import (  # noqa: E402
    SEARCHED,
    SHAPES,
    Row,
    layer_stack,
    medians,
    operator_spec,
    ratio,
    training_step,
    within_plain,
)

if TYPE_CHECKING:
    import torch

    import dno
    from data.batches import Split
    from model_step import TrainingStep

Call = Callable[[], object]
STEPS = 32  # of a training in one measurement, so that waiting for the device is not what is measured
TRAJECTORIES, INTERVALS = 64, 20  # of a rollout: those of a steering evaluation
PROCESSES = (4, 8, 16)
MPS = "nvidia-cuda-mps-control"
STREAMS = (1, 2, 4, 8, 16)


def waiting(call: Call, times: int = 1) -> Call:
    """So many calls and the wait for the device."""
    import torch

    def wrapped() -> None:
        for _ in range(times):
            call()
        torch.cuda.synchronize()

    return wrapped


def compared(calls: dict[str, Call], seconds: float, times: int = 1) -> dict[str, float]:
    """Median seconds of one call of each."""
    found = medians({name: waiting(call, times) for name, call in calls.items()}, seconds, time.perf_counter)
    return {name: value / times for name, value in found.items()}


def problem(is_spatial: bool, trajectories: int = 256) -> tuple[dno.OperatorSpec, Split]:
    """`operator_spec`, and smooth random trajectories in place of its family's."""
    import torch

    from data.batches import Split

    spec = operator_spec(is_spatial)
    points, steps = spec.points_per_delay, 10 * spec.points_per_delay
    times = torch.arange(steps + points + 1, device="cuda") / points
    phase = torch.rand(trajectories, 1, spec.channels, device="cuda")
    path = 1.5 + (times[:, None] + 6 * phase).sin()
    split = Split(
        "train",
        path[:, : points + 1],
        torch.rand(trajectories, device="cuda") + 0.5,
        torch.randn(trajectories, 2, device="cuda"),
        path[:, points + 1 :],
        torch.ones(trajectories, steps, dtype=torch.bool, device="cuda"),
        torch.full((trajectories,), steps, device="cuda"),
    )
    return spec, split


def make_step(model: str, is_spatial: bool, wants_graph: bool) -> TrainingStep:
    """The trainer's own step at the default configuration."""
    import torch

    import dno
    import model_trainer
    from data.batches import RowWindows
    from model_optimizer import make_optimizer
    from model_step import TrainingStep

    spec, split = problem(is_spatial)
    torch.manual_seed(0)
    hyperparameters = model_trainer.default_hyperparameters(model, spec)
    own, settings = model_trainer.split_hyperparameters(model, hyperparameters)
    operator = dno.build_operator(model, own, spec).cuda()
    operator.fit_normalisation(split.history, split.solution, split.mask, split.tau, split.params)
    windows = RowWindows(split, operator.past_rows, operator.target_rows, settings.first_interval_share)
    optimizer = make_optimizer(operator, settings.optimizer, settings.weight_decay)
    crops = max(1, settings.batch_size // operator.target_rows)
    order = torch.Generator("cuda").manual_seed(0)
    return TrainingStep(operator, windows, optimizer, (STEPS, crops), settings.gradient_clip, order, wants_graph)


def epoch(*steps: TrainingStep, streams: Sequence[torch.cuda.Stream] = ()) -> None:
    """STEPS steps of each, in turn, on streams of their own where there are such."""
    import torch

    for step in steps:
        step.begin_epoch()
    if streams:
        torch.cuda.synchronize()
    for _ in range(STEPS):
        for number, step in enumerate(steps):
            with torch.cuda.stream(streams[number]) if streams else contextlib.nullcontext():
                step(1e-4, 0.5)


def layers(seconds: float) -> list[Row]:
    """A stack of Fourier layers against rfft + einsum, and against neuraloperator."""
    import torch

    from benchmarks import peers

    rows = []
    for name, shape in (SHAPES | SEARCHED).items():
        points, space, batch = shape[0], shape[1], shape[4]
        field, channels_first = (
            torch.randn(points, space, batch, 1, device="cuda"),
            torch.randn(batch, 1, points, *([space] if space > 1 else []), device="cuda"),
        )
        calls = {"ours": training_step(layer_stack(shape).cuda(), field)}
        calls["plain"] = within_plain(training_step(layer_stack(shape).cuda(), field))
        for kind in ("same", "default") if peers.has("neuralop") and name in SHAPES else ():
            calls[kind] = training_step(peers.neural_operator(shape, kind).cuda(), channels_first)
        found = compared(calls, seconds, 8)
        rows.append(ratio(f"GPU, step against rfft + einsum, {name}", found["ours"], found["plain"]))
        for kind, words in (("same", "same architecture"), ("default", "out of the box")):
            if kind in found:
                title = f"GPU, step against neuraloperator 2.0.0, {words}, {name}"
                rows.append(ratio(title, found["ours"], found[kind]))
    return rows


def steps(seconds: float) -> list[Row]:
    """The trainer's whole step of each operator: as a graph, eager, and eager with plain layers."""
    import dno

    rows = []
    for is_spatial in (False, True):
        for model in dno.MODELS:
            calls: dict[str, Call] = {}
            for name, wants_graph in (("graph", True), ("eager", False), ("plain", False)):
                call = functools.partial(epoch, make_step(model, is_spatial, wants_graph))
                calls[name] = within_plain(call) if name == "plain" else call
            found = {name: value / STEPS for name, value in compared(calls, seconds).items()}
            kind = f"{model}, {'in space' if is_spatial else 'scalar'}"
            rows.append(ratio(f"GPU, {kind}: step as a graph against eager", found["graph"], found["eager"], 3.0))
            rows.append(ratio(f"GPU, {kind}: eager step against plain layers", found["eager"], found["plain"]))
            rows.append(Row(f"GPU, {kind}: step as a graph", round(1e3 * found["graph"], 3), "ms"))
    return rows


def rollouts(seconds: float) -> list[Row]:
    """The rollout of a steering evaluation: row after row recorded, against eager."""
    import torch

    import dno
    from dno import cuda_graph

    rows = []
    for is_spatial in (False, True):
        for model in dno.MODELS:
            spec, split = problem(is_spatial, TRAJECTORIES)
            operator = dno.build_operator(model, {}, spec).cuda().eval()
            n_steps = INTERVALS * spec.points_per_delay

            @torch.no_grad()
            def recorded(operator: dno.Operator = operator, split: Split = split, n: int = n_steps) -> None:
                operator(split.history, split.tau, split.params, n)

            def eager(recorded: Call = recorded) -> None:
                least, cuda_graph.LEAST_CALLS = cuda_graph.LEAST_CALLS, 10**9
                recorded()
                cuda_graph.LEAST_CALLS = least

            found = compared({"recorded": recorded, "eager": eager}, seconds)
            kind = f"{model}, {'in space' if is_spatial else 'scalar'}"
            rows.append(ratio(f"GPU, {kind}: rollout recorded against eager", found["recorded"], found["eager"]))
            rows.append(Row(f"GPU, {kind}: rollout recorded", round(1e3 * found["recorded"], 2), "ms"))
    return rows


def streams(seconds: float) -> list[Row]:
    """So many trainings in one process, each a graph on a stream of its own, against one after the other."""
    import torch

    rows = []
    for model in ("method_of_steps", "memory_kernel"):
        rates = {}
        for count in STREAMS:
            running = [make_step(model, False, True) for _ in range(count)]
            for step in running:
                epoch(step)  # records it
            turn = functools.partial(epoch, *running, streams=[torch.cuda.Stream() for _ in running])
            rates[count] = count * STEPS / compared({"turn": turn}, seconds / len(STREAMS))["turn"]
            print(f"{model}, {count} trainings on streams: {rates[count]:.0f} steps/s", flush=True)
            rows.append(Row(f"GPU, {model}: {count} trainings on streams", round(rates[count]), "steps/s"))
        most = max(rates, key=rates.__getitem__)
        rows.append(ratio(f"GPU, {model}: {most} trainings on streams against one", 1 / rates[most], 1 / rates[1], 4.0))
    return rows


def processes(seconds: float) -> list[Row]:
    """So many processes that train on one GPU, as `--workers_per_gpu` starts them, against one; with MPS as well."""
    model, rows, alone = "method_of_steps", [], 0.0
    for has_mps in (False, True):
        if has_mps and not shutil.which(MPS):
            print(f"{MPS} is not installed: left out")
            break
        rates = {}
        with mps() if has_mps else contextlib.nullcontext():
            for count in PROCESSES if has_mps else (1, *PROCESSES):
                begin = time.time() + 10 + count / 2
                command = [sys.executable, __file__, "--work", model, "--seconds", str(seconds), "--begin", str(begin)]
                running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
                rates[count] = sum(float(each.communicate()[0].split()[-1]) for each in running)
                kind = f"{model}: {count} processes{' with MPS' if has_mps else ''}"
                print(f"{kind}: {rates[count]:.0f} steps/s", flush=True)
                rows.append(Row(f"GPU, {kind}", round(rates[count]), "steps/s"))
        alone = alone or rates[1]
        most = max(rates, key=rates.__getitem__)
        name = f"GPU, {model}: {most} processes{' with MPS' if has_mps else ''} against one"
        rows.append(ratio(name, 1 / rates[most], 1 / alone, 4.0))
    return rows


@contextlib.contextmanager
def mps() -> Iterator[None]:
    """NVIDIA's multi-process service, for the programs that are started within."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        subprocess.run([MPS, "-d"], check=True)
        try:
            yield
        finally:
            subprocess.run([MPS], input="quit", text=True, check=False, capture_output=True)
            del os.environ["CUDA_MPS_PIPE_DIRECTORY"], os.environ["CUDA_MPS_LOG_DIRECTORY"]


def work(model: str, seconds: float, begin: float) -> None:
    """One of the `processes`: prints its steps per second, all of them in the same seconds."""
    import torch

    step, count = make_step(model, False, True), 0
    epoch(step)
    torch.cuda.synchronize()
    time.sleep(max(0.0, begin - time.time()))
    start = time.perf_counter()
    while time.perf_counter() < start + seconds:
        waiting(functools.partial(epoch, step))()
        count += STEPS
    print(count / (time.perf_counter() - start))


def trainings(seconds: float) -> list[Row]:
    """Real trainings of 200 epochs at the default configuration: seconds with and without graphs, and the error."""
    import torch

    import dno
    import model_step
    import model_trainer
    from data.batches import load_family

    rows = []
    for family in ("mackey", "neutral"):
        data = load_family(family, ROOT / "data", "cuda")
        for model in dno.MODELS:
            hyperparameters = model_trainer.default_hyperparameters(model, model_trainer.operator_spec(data))
            for value in ("1", "0") if (family, model) == ("mackey", "method_of_steps") else ("1",):
                os.environ[model_step.VARIABLE] = value
                torch.cuda.reset_peak_memory_stats()
                result = model_trainer.train(
                    model, hyperparameters, data, limits=model_trainer.Limits(), seed=0, on_epoch=lambda record: None
                )
                kind = f"GPU, {model} on {family}, 200 epochs{'' if value == '1' else ', eager'}"
                spent = {name: round(value, 1) for name, value in result.seconds.items()}
                error, memory = result.metrics["test_rel_error_median"], torch.cuda.max_memory_allocated() / 2**20
                print(f"{kind}: {spent}, error {error:.2e}, {memory:.0f} MiB", flush=True)
                rows += [Row(f"{kind}: {name}", value, "s") for name, value in spent.items()]
                rows += [Row(f"{kind}: median error", error, "relative L2"), Row(f"{kind}: memory", memory, "MiB")]
        del os.environ[model_step.VARIABLE]
    return rows


PARTS = {each.__name__: each for each in (layers, steps, rollouts, streams, processes, trainings)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS], help="parts (default: all)")
    parser.add_argument("--seconds", type=float, default=2, help="time of each comparison (default: 2)")
    parser.add_argument("--output", type=Path, default=OUTPUT / "gpu.json")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=float, default=0.0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        parser.exit(2, "benchmarks/gpu.py: this machine has no CUDA GPU; benchmarks/speed.py measures a CPU\n")
    if arguments.work:
        work(arguments.work, arguments.seconds, arguments.begin)
        return 0
    rows: dict[str, dict[str, object]] = {}
    if arguments.output.exists():  # parts that ran before stay
        rows = {row["name"]: row for row in json.loads(arguments.output.read_text())["rows"]}
    for part in arguments.only:
        found = [asdict(row) for row in PARTS[part](arguments.seconds)]
        rows |= {row["name"]: {key: value for key, value in row.items() if value is not None} for row in found}
        write_results(
            arguments.output,
            device=f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores",
            command=f"python benchmarks/gpu.py --only {' '.join(arguments.only)} --seconds {arguments.seconds:g}",
            rows=[*rows.values()],
            torch=torch.__version__,
            is_quiet=part != arguments.only[-1],
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
