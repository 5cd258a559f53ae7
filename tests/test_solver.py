"""The solver against closed forms, published values, scipy's DOP853, and its own promises."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from data import FAMILIES, solve
from data.chebyshev import Mesh
from data.families import Family
from data.forms import general
from data.randomness import generator
from data.solver import Problems, solve_batch, solve_roughly
from tests.problems import (
    IKEDA,
    NEUTRAL_LOGISTIC,
    PREDATOR,
    Problem,
    closed_forms,
    dop853,
    references,
    relative_error,
)

FAMILY_NAMES = tuple(FAMILIES)
MACKEY = {"beta": 0.2, "gamma": 0.1, "n": 10.0}
MIDDLES = {
    "mackey": (20.0, MACKEY),
    "delayed_logistic": (1.4, {"r": 1.9, "K": 1.3}),
    "neutral": (1.1, {"a": -0.2, "b": -0.8, "c": 0.6}),
    "reaction_diffusion": (1.4, {"D": 1e-3, "r": 1.5}),
}


def without_special_form(family: Family) -> Family:
    return replace(family, special_form=None)


def draws(family: Family, n: int, purpose: str = "test", *, is_rough: bool = False) -> tuple:
    """n random problems of a family, as solve_batch takes them."""
    streams = [generator(3, purpose, index) for index in range(n)]
    histories = [family.history.draw(stream, is_rough=is_rough) for stream in streams]
    tau = np.array([stream.uniform(*family.tau) for stream in streams])
    return histories, tau, np.array([[p.draw(stream) for p in family.parameters] for stream in streams])


def in_time(history: Callable, tau: float) -> Callable:
    return lambda t: history(t / tau)


@pytest.mark.parametrize("problem", closed_forms(), ids=lambda problem: problem.name)
@pytest.mark.parametrize("form", ["special", "general"])
def test_solve_meets_closed_forms(problem: Problem, form: str) -> None:
    family = problem.family if form == "special" else without_special_form(problem.family)
    x = solve(family, problem.history, problem.tau, problem.params, problem.times)
    assert relative_error(x, problem.solution) <= 1e-12


@pytest.mark.parametrize("problem", references(), ids=lambda problem: problem.name)
@pytest.mark.parametrize("form", ["special", "general"])
def test_solve_meets_references(problem: Problem, form: str) -> None:
    family = problem.family if form == "special" else without_special_form(problem.family)
    x = solve(family, problem.history, problem.tau, problem.params, problem.times)
    assert relative_error(x, problem.solution) <= 1e-11


@pytest.mark.parametrize(
    ("family", "tau", "params", "index"),
    [
        (FAMILIES["mackey"], 17.0, MACKEY, 0),
        (FAMILIES["mackey"], 24.0, MACKEY, 1),
        (FAMILIES["delayed_logistic"], 1.5, {"r": 2.0, "K": 0.7}, 2),
        (FAMILIES["reaction_diffusion"], 1.6, {"D": 3e-3, "r": 1.6}, 3),
        (IKEDA, 1.5, {"a": 1.0, "b": 6.0}, 4),
        (PREDATOR, 1.2, {"a": 0.8, "d": 0.5}, 5),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_solve_agrees_with_dop853(family: Family, tau: float, params: dict, index: int) -> None:
    history = in_time(family.history.draw(generator(0, "dop853", index), is_rough=True), tau)
    times = np.linspace(0.05, 6, 41) * tau
    x = solve(family, history, tau, params, times)
    # Two tolerances of 1e-12 per step, over chaotic stretches: DOP853 is the less exact of the two.
    assert relative_error(x, dop853(family, history, tau, params, times)) <= 1e-9


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_special_form_equals_the_general_one_for_rough_histories(name: str) -> None:
    family, (tau, params) = FAMILIES[name], MIDDLES[name]
    history = in_time(family.history.draw(generator(1, "forms", 0), is_rough=True), tau)
    times = np.linspace(0, 8, 50) * tau
    x = solve(family, history, tau, params, times)
    assert relative_error(solve(without_special_form(family), history, tau, params, times), x) <= 1e-10


@pytest.mark.parametrize(("name", "nodes"), [("mackey", (12, 24, 36)), ("neutral", (10, 14, 18))])
@pytest.mark.parametrize("form", ["special", "general"])
def test_error_falls_geometrically_with_n_across_breaking_points(name: str, nodes: tuple, form: str) -> None:
    """Equal steps in n divide the error by equal factors; a method that saw the kinks would fall like a power of n."""
    family, (tau, params) = FAMILIES[name], MIDDLES[name]
    tau = 6.0 if name == "mackey" else tau
    history = family.history.draw(generator(2, "order", 0))
    exact = solve(family, in_time(history, tau), tau, params, tau * np.arange(1, 65) / 8)
    problem = Problems(family, [history], [tau], [[*params.values()]], 8, 8)
    solver = family.special_form if form == "special" else general(family.right_hand_side)
    errors = [
        relative_error(problem.solve(solver, Mesh.uniform(n, 1), np.array([0]), 8).sampled[:, 0], exact) for n in nodes
    ]
    assert errors[1] < errors[0] / 30 and errors[2] < errors[1] / 30, errors
    # A power law with the first ratio would gain at most this much in the second step:
    power = np.log(errors[0] / errors[1]) / np.log(nodes[1] / nodes[0])
    assert errors[2] < errors[1] * (nodes[1] / nodes[2]) ** power, errors


@pytest.mark.parametrize("family", [*FAMILIES.values(), IKEDA, PREDATOR, NEUTRAL_LOGISTIC], ids=lambda f: f.name)
def test_batch_agrees_with_solve_and_knows_its_error(family: Family) -> None:
    if family is PREDATOR:
        family = replace(family, history=replace(family.history, is_positive=True, offset=(0.3, 0.8), amplitude=0.3))
    if family is NEUTRAL_LOGISTIC:
        family = replace(family, history=replace(family.history, is_positive=True, offset=(0.8, 1.2), amplitude=0.1))
    histories, tau, params = draws(family, 12)
    solution = solve_batch(family, histories, tau, params, 10)
    grid = solution.values
    assert grid.shape == (12, 10 * family.points_per_delay, family.channels)
    for index in (0, 5, 11):
        values = dict(zip(family.parameter_names, params[index], strict=True))
        times = tau[index] * np.arange(1, grid.shape[1] + 1) / family.points_per_delay
        exact = solve(family, in_time(histories[index], tau[index]), tau[index], values, times)
        error = relative_error(grid[index], exact)
        assert error <= 1e-8 and error <= 2 * solution.error[index]
    assert (solution.error <= 1e-8).all()


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_worst_of_many_trajectories_is_right(name: str) -> None:
    """Against a mesh with four times the elements; the flagged trajectories are among them."""
    family, n = FAMILIES[name], 40 if name == "reaction_diffusion" else 200
    histories, tau, params = draws(family, n, is_rough=name != "reaction_diffusion")
    n_intervals = 20 if name == "mackey" else 10
    solution = solve_batch(family, histories, tau, params, n_intervals)
    nodes, elements = family.special_form.meshes[1]
    problems = Problems(family, histories, tau, params, n_intervals)
    mesh = Mesh.uniform(nodes, 8 * elements)
    with np.errstate(all="ignore"):
        fine = problems.solve(family.special_form, mesh, np.arange(n), width=n)
    truth = fine.sampled.swapaxes(0, 1)
    errors = np.array([relative_error(x, y) for x, y in zip(solution.values, truth, strict=True)])
    assert errors.max() <= 1e-8 and (errors <= 2 * solution.error).all()


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_batch_does_not_mix_trajectories(name: str) -> None:
    family = FAMILIES[name]
    histories, tau, params = draws(family, 40)
    whole = solve_batch(family, histories, tau, params, 4).values
    order = np.random.default_rng(0).permutation(40)[:23]
    part = solve_batch(family, [histories[i] for i in order], tau[order], params[order], 4)
    assert np.array_equal(part.values, whole[order])


def test_batch_marks_solutions_that_leave_the_floating_point_range() -> None:
    family = replace(IKEDA, name="explosion", right_hand_side=lambda x, xd, _, p: p["b"] * x**2 + xd)
    histories, tau, params = draws(family, 4)
    histories[0] = lambda s: np.zeros((len(s), 1))
    histories[1] = lambda s: np.full((len(s), 1), 5.0)
    solution = solve_batch(family, histories, tau, params, 3)
    assert solution.error[0] <= 1e-8 and not solution.values[0].any() and solution.error[1] == np.inf


@pytest.mark.parametrize("scale", [1e-165, 1e165])
def test_batch_knows_its_error_at_any_scale(scale: float) -> None:
    """A rough history of a linear equation: the same relative error, though its squares leave the range."""
    family, arguments = FAMILIES["neutral"], ([1.0], [[-0.2, -0.8, 0.6]], 10)
    one = solve_batch(family, [lambda s: (1 + np.sin(30 * s))[:, None]], *arguments)
    scaled = solve_batch(family, [lambda s: scale * (1 + np.sin(30 * s))[:, None]], *arguments)
    assert scaled.error == pytest.approx(one.error, rel=0.5)
    assert np.abs(scaled.values / scale - one.values).max() <= 1e-12


def test_estimate_grows_with_what_amplifies_rounding() -> None:
    """Mackey-Glass over 60 delays: chaos makes more of rounding than tails can tell."""
    histories, _, params = draws(FAMILIES["mackey"], 40)
    solution = solve_batch(FAMILIES["mackey"], histories, np.linspace(20, 24, 40), params, 60)
    problems = Problems(FAMILIES["mackey"], histories, np.linspace(20, 24, 40), params, 60)
    with np.errstate(all="ignore"):
        truth = problems.solve(FAMILIES["mackey"].special_form, Mesh.uniform(72, 4), np.arange(40), width=40).sampled
    errors = [relative_error(x, y) for x, y in zip(solution.values, truth.swapaxes(0, 1), strict=True)]
    assert (np.array(errors) <= 2 * solution.error).all()


def test_batch_of_nothing() -> None:
    histories, tau, params = draws(FAMILIES["mackey"], 2)
    assert solve_batch(FAMILIES["mackey"], histories, tau, params, 0).values.shape == (2, 0, 1)
    assert solve_batch(FAMILIES["mackey"], [], [], np.empty((0, 3)), 4).values.shape == (0, 0, 1)


@pytest.mark.parametrize("family", [FAMILIES["neutral"], FAMILIES["reaction_diffusion"], IKEDA], ids=lambda f: f.name)
def test_rough_solution_goes_on_from_the_end_of_another(family: Family) -> None:
    """As `accept` sees it: the second half, solved to three digits from the last interval of the first."""
    histories, tau, params = draws(family, 40)
    whole = solve_batch(family, histories, tau, params, 8).values
    first = solve_batch(family, histories, tau, params, 5)
    assert np.abs(whole[:, : 5 * family.points_per_delay] - first.values).max() <= 1e-7
    second = solve_roughly(family, first.endings, tau, params, 3)
    errors = [relative_error(x, y) for x, y in zip(second.values, whole[:, first.values.shape[1] :], strict=True)]
    assert max(errors) <= 1e-3
    alone = solve_roughly(family, [first.endings[7]], tau[[7]], params[[7]], 3)
    assert np.array_equal(alone.values[0], second.values[7])


def test_thousand_trajectories_take_little_time() -> None:
    family = FAMILIES["delayed_logistic"]
    histories, tau, params = draws(family, 1000)
    start = time.process_time()
    solve_batch(family, histories, tau, params, 25)
    assert time.process_time() - start < 1.5  # measured: .12 s


def test_solve_takes_times_in_any_order() -> None:
    tau, params = MIDDLES["mackey"]

    def history(t: np.ndarray) -> np.ndarray:
        return 1 + 0.2 * np.sin(t)

    times = np.array([3 * tau, 0.0, 0.1, 2.5 * tau, tau, 1e-9, 3 * tau])
    x = solve("mackey", history, tau, params, times)
    assert x.shape == (7, 1) and x.dtype == np.float64
    assert x[1, 0] == pytest.approx(1, rel=1e-15) and x[5, 0] == pytest.approx(1, rel=1e-9)
    one_by_one = [solve("mackey", history, tau, params, np.array([t]))[0, 0] for t in times]
    np.testing.assert_allclose(x[:, 0], one_by_one, rtol=1e-13)
    assert solve("mackey", history, tau, params, []).shape == (0, 1)


def test_solve_falls_back_where_there_is_no_logarithm() -> None:
    def history(t: np.ndarray) -> np.ndarray:
        return np.cos(5 * t) - 0.2

    times, params = np.linspace(0.1, 4, 30), {"r": 1.2, "K": 1.0}
    x = solve("delayed_logistic", history, 1.0, params, times)
    assert relative_error(x, dop853(FAMILIES["delayed_logistic"], history, 1.0, params, times)) <= 1e-9


@pytest.mark.parametrize("tau", [0.01, 0.1, 150.0, 1000.0])
def test_solve_takes_short_and_long_delays(tau: float) -> None:
    def history(t: np.ndarray) -> np.ndarray:
        return 0.8 + 0.3 * np.sin(3 * t / tau)

    times = np.linspace(0.1, 2, 9) * max(tau, 1)
    x = solve("mackey", history, tau, MACKEY, times)
    if tau >= 100:
        assert relative_error(x, dop853(FAMILIES["mackey"], history, tau, MACKEY, times)) <= 1e-9
    else:  # x(t − τ) ≈ x(t): an ordinary differential equation, to first order in τ
        undelayed = solve("mackey", history, tau / 10, MACKEY, times)
        assert relative_error(x, undelayed) <= tau


def test_solve_takes_stiff_equations() -> None:
    """x′ = −λ (x − cos t) + …: the exact solution is cos t whatever λ is."""
    family = replace(IKEDA, right_hand_side=lambda x, xd, sd, p: -p["a"] * (x - p["b"] * xd) + p["b"] * sd)
    times = np.linspace(0.3, 6, 20)  # with τ = 2π and b = 1, x(t − τ) = x(t)
    x = solve(family, np.cos, 2 * np.pi, {"a": 300.0, "b": 1.0}, times)
    assert relative_error(x[:, 0], np.cos(times)) <= 1e-10


@pytest.mark.parametrize("family", ["neutral", "delayed_logistic"])
def test_solve_shrinks_elements_around_kinks(family: str) -> None:
    tau, params = MIDDLES[family]
    times = np.linspace(0.1, 4, 17) * tau

    def kinked(t: np.ndarray) -> np.ndarray:
        return 1 + np.abs(t / tau + 0.37)

    # The kink lies on the edge of an element where the equation is shifted: x(t − τ) read from the left and the right.
    general_form = solve(without_special_form(FAMILIES[family]), kinked, tau, params, times)
    assert relative_error(solve(family, kinked, tau, params, times), general_form) <= 1e-9
    if family == "delayed_logistic":
        assert relative_error(general_form, dop853(FAMILIES[family], kinked, tau, params, times)) <= 1e-7


def test_solve_takes_histories_in_single_precision(caplog: pytest.LogCaptureFixture) -> None:
    tau, params = MIDDLES["mackey"]
    times = np.linspace(0, 60, 20)
    x = solve("mackey", lambda t: (1 + 0.2 * np.sin(t)).astype(np.float32), tau, params, times)
    exact = solve("mackey", lambda t: 1 + 0.2 * np.sin(t), tau, params, times)
    assert relative_error(x, exact) <= 1e-5 and "not smooth" in caplog.text


def fine(t: np.ndarray) -> np.ndarray:
    return np.ones(t.shape)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mackay", fine, 17.0, MACKEY, [1.0]), r"family: expected .* mackey, .*, got 'mackay'"),
        (("mackey", fine, 0.0, MACKEY, [1.0]), r"tau: expected a finite positive delay, got 0.0"),
        (("mackey", fine, np.nan, MACKEY, [1.0]), r"tau: .* got nan"),
        (("mackey", fine, 17.0, {"beta": 0.2}, [1.0]), r"params: mackey takes beta, gamma, n, got beta"),
        (("mackey", fine, 17.0, {**MACKEY, "tau": 1}, [1.0]), r"params: mackey takes beta, gamma, n, got .* tau"),
        (("mackey", fine, 17.0, {**MACKEY, "n": np.inf}, [1.0]), r"params: expected a finite n, got inf"),
        (("mackey", fine, 17.0, MACKEY, [-1.0]), r"times: expected finite times t >= 0"),
        (("mackey", fine, 17.0, MACKEY, [np.nan]), r"times: expected finite times"),
        (("mackey", fine, 17.0, MACKEY, [[1.0]]), r"times: .* of shape \(T,\)"),
        (("mackey", lambda t: 1.0, 17.0, MACKEY, [1.0]), r"history: expected values \(H, 1\) or \(H,\) .* shape \(\)"),
        (("mackey", lambda t: t / 0, 17.0, MACKEY, [1.0]), r"history: expected finite values, got"),
        (("reaction_diffusion", fine, 1.0, {"D": 1e-3, "r": 1.0}, [1.0]), r"history: expected values \(H, 20\)"),
        (("mackey", lambda t: -fine(t), 17.0, {**MACKEY, "n": 9.5}, [1.0]), r"mackey: the solution cannot be resolved"),
        (
            ("neutral", fine, 1.0, {"a": 900.0, "b": 1.0, "c": 0.1}, [5.0]),
            r"neutral: .* cannot be resolved on \[0, 1\]",
        ),
        (
            ("neutral", lambda t: np.sin(1e9 * t**2), 1.0, MIDDLES["neutral"][1], [1.0]),
            r"history: cannot be resolved",
        ),
    ],
)
def test_solve_refuses_in_one_line(arguments: tuple, message: str) -> None:
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match=message) as error:
        solve(*arguments)
    assert "\n" not in str(error.value)
