"""The three operators: invariances of the shared signature, defaults by trait, the checkpoint, the product door."""

import numpy as np
import pytest
import torch

import dno

SCALAR = dno.OperatorSpec(1, 16, ("a", "b"), frozenset({"positive"}))
NEUTRAL = dno.OperatorSpec(1, 16, ("a", "b", "c"), frozenset({"homogeneous", "neutral"}))
SPATIAL = dno.OperatorSpec(8, 16, ("D",), frozenset({"positive", "spatial"}))
PLAIN = dno.OperatorSpec(2, 16, (), frozenset())
SPECS = pytest.mark.parametrize("spec", [SCALAR, NEUTRAL, SPATIAL, PLAIN], ids=["scalar", "neutral", "space", "plain"])
MODELS = pytest.mark.parametrize("model", dno.MODELS)
SMALL = {"width": 8, "fourier_modes_t": 4}


def built(model: str, spec: dno.OperatorSpec) -> dno.Operator:
    torch.manual_seed(0)
    operator = dno.build_operator(model, SMALL, spec).double()
    history, tau, params = batch(spec, 6)
    solution = torch.rand(6, 64, spec.channels, dtype=torch.float64) + 0.5
    operator.fit_normalisation(history, solution, torch.ones(6, 64, dtype=torch.bool), tau, params)
    return operator.eval()


def batch(spec: dno.OperatorSpec, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (size, spec.points_per_delay + 1, spec.channels)
    history = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
    tau = torch.rand(size, generator=generator, dtype=torch.float64) + 0.5
    params = torch.randn(size, len(spec.parameter_names), generator=generator, dtype=torch.float64)
    return history, tau, params


@MODELS
@SPECS
def test_prediction_does_not_depend_on_horizon_or_batch_composition(model, spec):
    operator = built(model, spec)
    history, tau, params = batch(spec, 5)
    with torch.no_grad():
        together = operator(history, tau, params, 50)
        assert together.shape == (5, 50, spec.channels)
        assert torch.isfinite(together).all()
        alone = operator(history[3:4], tau[3:4], params[3:4], 21)
    assert torch.allclose(together[3:4, :21], alone, rtol=1e-10, atol=1e-6)  # untrained, rounding grows to 1e-8


@MODELS
@SPECS
def test_trajectories_that_are_over_leave_a_rollout_and_change_nothing(model, spec, monkeypatch):
    operator, sizes = built(model, spec), []
    history, tau, params = batch(spec, 4)
    lengths = torch.tensor([50, 33, 32, 1])
    with torch.no_grad():
        whole = operator(history, tau, params, 50)
        next_row = operator.next_row
        monkeypatch.setattr(operator, "next_row", lambda *given: sizes.append(len(given[0])) or next_row(*given))
        wanted = operator(history, tau, params, 50, lengths)
    assert sizes == [4, 3, 2, 1]  # intervals of 16 points
    for i, length in enumerate(lengths.tolist()):
        assert torch.allclose(wanted[i, :length], whole[i, :length], rtol=1e-10, atol=1e-6)


@MODELS
@SPECS
def test_training_loss_reaches_every_parameter_and_ignores_absent_rows(model, spec):
    operator = built(model, spec).train()
    count = operator.past_rows + operator.target_rows
    rows = torch.rand(3, count, 17, spec.channels, dtype=torch.float64) + 0.5
    present = torch.ones(3, count, dtype=torch.bool)
    present[:, : operator.past_rows - 1] = False
    _, tau, params = batch(spec, 3)
    loss = operator.training_loss(rows, present, tau, params, 0.5, torch.Generator())
    loss.backward()
    without = [name for name, p in operator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in without if "taps" not in name] == []
    if operator.past_rows > 1:
        garbage = rows.clone()
        garbage[~present] = 1e3
        assert torch.equal(operator.training_loss(garbage, present, tau, params, 0.5, torch.Generator()), loss)


@SPECS
def test_stacked_history_row_does_not_change_when_later_rows_do(spec):
    operator = built("stacked_history", spec)
    rows = torch.rand(2, 8, 17, spec.channels, dtype=torch.float64) + 0.5
    present = torch.ones(2, 8, dtype=torch.bool)
    _, tau, params = batch(spec, 2)
    changed = rows.clone()
    changed[:, 6:] += 1.0

    def following(values: torch.Tensor) -> torch.Tensor:
        state, _ = operator._encode_rows(values, present, operator.past_rows)
        return operator.features(state, present, tau, operator.standardised(params))

    before, after = following(rows), following(changed)
    known = 6 - operator.past_rows + 1  # successors of the rows before the change that see all of their past
    assert known > 0 and before.shape[2] == 8 - operator.past_rows + 1
    assert torch.equal(before[:, :, :known], after[:, :, :known])
    assert not torch.allclose(before[:, :, known:], after[:, :, known:])


def test_stacked_history_sees_exactly_its_rows():
    operator = built("stacked_history", SCALAR)
    rows = torch.rand(1, 9, 17, 1, dtype=torch.float64, requires_grad=True)
    present = torch.ones(1, 9, dtype=torch.bool)
    _, tau, params = batch(SCALAR, 1)
    state, _ = operator._encode_rows(rows + 0.5, present, operator.past_rows)
    operator.features(state, present, tau, operator.standardised(params))[:, :, -1].sum().backward()
    seen = (rows.grad.abs().sum((0, 2, 3)) > 0).tolist()
    assert seen == [False] * (9 - operator.past_rows) + [True] * operator.past_rows


def test_homogeneous_operators_scale_with_the_history():
    for model in dno.MODELS:
        operator = built(model, NEUTRAL)
        history, tau, params = batch(NEUTRAL, 3)
        with torch.no_grad():
            once, thrice = (operator(scale * history, tau, params, 40) for scale in (1, -3))
            once = operator(-history, tau, params, 40) * 3
        assert torch.allclose(once, thrice, rtol=1e-9)


def test_memory_kernel_training_step_is_the_step_of_the_rollout():
    operator = built("memory_kernel", NEUTRAL)
    operator.low.fill_(-1e12)  # no clamping, whatever the untrained network does
    operator.high.fill_(1e12)
    history, tau, params = batch(NEUTRAL, 2)
    with torch.no_grad():
        path = operator(history, tau, params, 16)
        rows = torch.stack([history, torch.cat([history[:, -1:], path], 1)], 1)
        loss = operator.training_loss(rows, torch.ones(2, 2, dtype=torch.bool), tau, params, 0.0, torch.Generator())
    assert loss < 1e-20


@MODELS
def test_defaults_follow_traits_and_the_grid(model):
    defaults = {name: dno.default_hyperparameters(model, spec) for name, spec in [("s", SCALAR), ("n", NEUTRAL)]}
    assert (defaults["s"]["log_state"], defaults["s"]["homogeneous"]) == (True, False)
    assert (defaults["n"]["log_state"], defaults["n"]["homogeneous"]) == (False, True)
    assert dno.default_hyperparameters(model, SPATIAL)["log_state"] is False
    assert dno.default_hyperparameters(model, SPATIAL)["fourier_modes_x"] <= 5


def test_objection_names_the_reason():
    assert "no space axis" in dno.objection("method_of_steps", "fourier_modes_x", 8, SCALAR)
    assert "13 modes" in dno.objection("method_of_steps", "fourier_modes_t", 64, SCALAR)
    assert dno.objection("method_of_steps", "fourier_modes_t", 12, SCALAR) is None
    assert dno.objection("memory_kernel", "fourier_modes_t", 17, SCALAR) is None


@pytest.mark.parametrize(
    ("hyperparameters", "words"),
    [
        ({"widht": 8}, "no hyperparameter 'widht'"),
        ({"width": -8}, "width must be a positive integer"),
        ({"width": 8.0}, "width must be a positive integer"),
        ({"dropout": 1.0}, "dropout must lie in"),
        ({"log_state": "yes"}, "log_state must be True or False"),
        ({"fourier_modes_t": 64}, "the grid carries"),
    ],
)
def test_build_operator_refuses_what_it_cannot_use(hyperparameters, words):
    with pytest.raises(ValueError, match=words):
        dno.build_operator("method_of_steps", hyperparameters, SCALAR)
    with pytest.raises(ValueError, match="expected one of"):
        dno.build_operator("transformer", {}, SCALAR)


@MODELS
@SPECS
def test_checkpoint_gives_the_same_predictions_and_notices_damage(model, spec, tmp_path):
    operator = built(model, spec).float()
    path = tmp_path / "model.pt"
    dno.save(operator, path, {"family": "test"})
    again = dno.load(path)
    history, tau, params = (tensor.float() for tensor in batch(spec, 2))
    with torch.no_grad():
        one_step = operator(history, tau, params, 1)
        assert torch.allclose(one_step, again(history, tau, params, 1), rtol=1e-3)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in operator.state_dict().items())
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="sha256"):
        dno.load(path)
    path.write_bytes(content[:-400])
    with pytest.raises(ValueError, match="sha256"):
        dno.load(path)
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        dno.load(tmp_path / "none.pt")


@MODELS
def test_predict_reads_callables_arrays_and_batches_alike(model):
    operator = built(model, SCALAR)
    tau, params, times = 1.5, {"a": 0.1, "b": -0.2}, np.array([0.0, 0.4, 1.5, 2.9, 4.5])

    def history(t: np.ndarray) -> np.ndarray:
        return 1 + 0.3 * np.sin(2 * t)

    from_callable = operator.predict(history, tau, params, times)
    from_array = operator.predict(history(np.linspace(-tau, 0, 17)), tau, params, times)
    from_other_grid = operator.predict(history(np.linspace(-tau, 0, 65)), tau, params, times)
    batch_of_two = operator.predict(
        np.stack([history(np.linspace(-tau, 0, 17))[:, None]] * 2), np.array([tau, 1.0]), params, times
    )
    assert from_callable.shape == (5, 1) and batch_of_two.shape == (2, 5, 1)
    assert np.allclose(from_callable, from_array, rtol=1e-12)
    assert np.allclose(from_callable, from_other_grid, rtol=1e-6)
    assert np.allclose(from_callable, batch_of_two[0], rtol=1e-9)
    assert from_callable[0, 0] == pytest.approx(history(np.zeros(1))[0])
    on_grid = operator(
        torch.tensor(history(np.linspace(-tau, 0, 17)))[None, :, None],
        torch.tensor([tau], dtype=torch.float64),
        torch.tensor([[0.1, -0.2]], dtype=torch.float64),
        16,
    )
    assert from_callable[2, 0] == pytest.approx(float(on_grid[0, -1, 0].detach()), rel=1e-9)


def test_predict_names_what_is_wrong():
    operator = built("method_of_steps", SCALAR)
    good = {"a": 0.0, "b": 0.0}
    with pytest.raises(ValueError, match="params must name a, b"):
        operator.predict(np.ones(17), 1.0, {"a": 0.0}, [1.0])
    with pytest.raises(ValueError, match="tau must be positive"):
        operator.predict(np.ones(17), -1.0, good, [1.0])
    for times in ([-1.0], [], [np.nan], [[1.0]]):
        with pytest.raises(ValueError, match="times must be a list of finite numbers from 0"):
            operator.predict(np.ones(17), 1.0, good, times)
    with pytest.raises(ValueError, match="params must be a dict of a, b"):
        operator.predict(np.ones(17), 1.0, [0.0, 0.0], [1.0])
    with pytest.raises(ValueError, match="1 channels"):
        operator.predict(np.ones((17, 2)), 1.0, good, [1.0])
