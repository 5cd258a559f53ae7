"""The parts of benchmarks that could be wrong and still print a table."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import dno
import model_trainer
from benchmarks import ablations, accuracy, accuracy_table, identified, joint_fno
from data.batches import RowWindows, load_family
from tests.cosine_family import make_family


def record(family: str, operator: str, seed: int, val: float, test: float, seconds: float = 600.0) -> dict[str, object]:
    metrics = {"val_rel_error_median": val, "test_rel_error_median": test}
    return {"family": family, "operator": operator, "seed": seed, "seconds": seconds, "metrics": metrics, "commit": "c"}


def test_identification_recovers_the_coefficients_and_follows_the_solver(data_root: Path) -> None:
    data = load_family("mackey", data_root, "cpu")
    found = identified.fit(data)
    assert np.abs(found - 1).max() < 1e-4
    split = data.splits["test"]
    errors = identified.errors(data, "test", len(split), 0, found)
    assert errors.shape == (len(split),) and errors.max() < 1e-3
    # A wrong coefficient shows: the errors are those of the fitted equation, not of the truth.
    assert identified.errors(data, "test", len(split), 0, found * [1.05, 1.0]).min() > 1e-3


def joint(data: object) -> joint_fno.JointFNO:
    spec = joint_fno.OperatorSpec(data.channels, data.points_per_delay, tuple(data.parameter_names), data.traits)
    torch.manual_seed(0)
    shape = joint_fno.JointFNOHyperparameters(intervals=joint_fno.longest(data), width=8, n_layers=2, modes=6)
    operator = joint_fno.JointFNO(spec, shape)
    split = data.splits["train"]
    operator.fit_normalisation(split.history, split.solution, split.mask, split.tau, split.params)
    return operator


def test_the_one_shot_baseline_learns_from_every_value_and_from_nothing_else() -> None:
    data = make_family()
    operator, whole = joint(data), joint_fno.whole_trajectories(data)
    split = whole.splits["train"]
    windows = RowWindows(split, 1, operator.target_rows, 1.0)
    rows, present, tau, params = windows.draw(6, torch.Generator().manual_seed(0))
    loss = operator.training_loss(rows, present, tau, params, 0.5, torch.Generator())
    assert torch.isfinite(loss)
    known = rows[:, 1:, 1:].isfinite() & present[:, 1:, None, None]
    # The last, incomplete interval counts, up to the trajectory's own end.
    lengths = known.flatten(1).sum(1)
    assert sorted(set(lengths.tolist())) == sorted(
        {int(data.splits["train"].lengths[data.splits["train"].tau == t]) for t in tau}
    )
    found = operator.from_field(operator.solution(rows[:, 0], tau, params)[0])
    truth = (rows[:, 1:, 1:].flatten(1, 2) - operator.mean) / operator.deviation
    error = (found - truth)[known.flatten(1, 2)]
    assert torch.allclose(loss, error.square().mean(), rtol=1e-5)


def test_the_one_shot_baseline_says_nothing_past_its_horizon() -> None:
    data = make_family()
    operator, split = joint(data), data.splits["test"]
    steps = operator.target_rows * data.points_per_delay
    found = operator(split.history, split.tau, split.params, steps + 3)
    assert found[:, :steps].isfinite().all() and found[:, steps:].isinf().all()


def test_validation_chooses_and_medians_are_over_seeds() -> None:
    records = [record("mackey", "method_of_steps", seed, 1e-4, test) for seed, test in enumerate((1e-4, 3e-4, 9e-4))]
    records += [record("mackey", "memory_kernel", 0, 2e-4, 1e-5), record("mackey", "persistence", 0, 0.3, 0.3)]
    records += [record("mackey", "joint_fno", 0, 2e-3, 2e-3)]
    assert accuracy_table.best_operator(records, "mackey") == "method_of_steps"
    assert "| mackey | method_of_steps | 3 | **3.0e-04** |" in accuracy_table.table(records)
    holds = {row["name"]: row["holds"] for row in accuracy_table.verdicts(records)}
    assert holds["mackey: method_of_steps, in range, median"] is False
    assert (
        holds["mackey: memory_kernel below persistence"]
        and not holds["mackey: method_of_steps below the Fourier operator"]
    )


def test_accuracy_goes_on_from_its_own_file_and_not_from_other_seconds(tmp_path: Path) -> None:
    output = tmp_path / "accuracy.json"
    arguments = accuracy.parse_arguments(["--seconds", "600", "--families", "mackey", "--output", str(output)])
    output.write_text(json.dumps({"trainings": [record("mackey", "memory_kernel", 1, 1e-4, 1e-4)]}))
    benchmark = accuracy.Benchmark(arguments)
    jobs = accuracy.planned(arguments)
    left = [job for job in jobs if benchmark.key(job) not in benchmark.records]
    # Three operators and the Fourier operator with three seeds, its search, two baselines that need no seed.
    assert len(jobs) == 4 * 3 + 1 + 2 and len(left) == len(jobs) - 1
    other = accuracy.parse_arguments(["--seconds", "60", "--families", "mackey", "--output", str(output)])
    assert all(accuracy.Benchmark(other).key(job) not in benchmark.records for job in accuracy.planned(other))


@pytest.mark.parametrize("model", dno.MODELS)
@pytest.mark.parametrize("traits", [{"positive"}, {"homogeneous", "neutral"}])
def test_every_ablation_differs_from_the_default_in_one_thing_and_can_be_built(model: str, traits: set[str]) -> None:
    spec = dno.OperatorSpec(1, 32, ("a",), frozenset(traits))
    default = model_trainer.default_hyperparameters(model, spec)
    none, *changes = ablations.variants(model, spec)
    assert none == {}
    assert {"optimizer": "adamw"} in changes and {"homogeneous": not default["homogeneous"]} in changes
    assert ({"log_state": not default["log_state"]} in changes) == ("positive" in traits)
    for change in changes:
        ((name, value),) = change.items()
        assert default[name] != value
        dno.build_operator(model, model_trainer.split_hyperparameters(model, default | change)[0], spec)
