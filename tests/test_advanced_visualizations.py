"""The report's command line on real run folders, and what it does with folders that are not as they should be."""

import contextlib
import html
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import advanced_visualizations
from advanced_visualizations import Options, Visualizations, main
from report.figures import draw_results
from tests.run_folders import hyperparameters, make_results, make_run, paste_custom_plot, run_config

ROOT = Path(__file__).resolve().parents[1]
STUDIES = ("method_of_steps_reaction_diffusion_bayesian", "memory_kernel_reaction_diffusion_bayesian")
FIGURES = {"model_comparison", "parameter_importance", "convergence_analysis", "trajectories"}
FIGURES |= {f"heatmap_{study}" for study in STUDIES}


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def results_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "results"
    make_results(folder, models=["method_of_steps", "memory_kernel"], families=["reaction_diffusion"], trials=9)
    return folder


@pytest.fixture(scope="module")
def report(results_dir, tmp_path_factory):
    """The folder that the real command made, with its output."""
    folder = tmp_path_factory.mktemp("report")
    command = ["advanced_visualizations.py", "--results_dir", str(results_dir), "--output_dir", str(folder)]
    code = "import runpy,sys; runpy.run_path(sys.argv[0], run_name='__main__')"
    code = f"import atexit,sys; atexit.register(lambda: print('torch' in sys.modules)); sys.argv={command!r}; {code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture
def one_trial(tmp_path):
    """Makes a results folder of a single run."""

    def make(status: str | None, *, family: str = "mackey", **changes: object) -> Path:
        generator = np.random.default_rng(0)
        config = run_config("memory_kernel", family, 0, hyperparameters(generator, spatial=False), **changes)
        make_run(tmp_path / "results", config, status, generator)
        return tmp_path / "results"

    return make


def is_picture(path: Path) -> bool:
    """Whether the file is an image that is not of one colour."""
    from matplotlib.image import imread

    return float(np.std(imread(path))) > 0.02


def test_help_is_quick_and_imports_nothing_heavy():
    started = time.perf_counter()
    code = "import sys, advanced_visualizations as a\ntry: a.main(['--help'])\nfinally: print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    for flag in ("results_dir", "output_dir", "models", "families", "metric", "top", "formats", "since", "width"):
        assert f"--{flag}" in done.stdout
    for module in ("numpy", "pandas", "matplotlib", "optuna", "torch", "plotly"):
        assert f"'{module}'" not in done.stdout
    assert seconds < 3, "0.1 s on an idle machine"


def test_command_makes_every_file_and_never_imports_torch(report):
    folder, done = report
    assert done.stdout.splitlines()[-1] == "False"
    names = {path.name for path in folder.iterdir()}
    assert {f"{stem}.png" for stem in FIGURES} | {"visualization_report.json", "report.html", "plotly.min.js"} <= names
    for study in STUDIES:
        for kind in ("history", "timeline", "edf", "intermediate", "slice", "parallel", "contour", "pareto"):
            assert f"interactive_{kind}_{study}.html" in names
    assert {"interactive_history_all.html", "interactive_edf_all.html"} <= names
    assert not [name for name in names if "partial" in name]


def test_figures_are_pictures_with_something_in_them(report):
    for stem in FIGURES:
        assert is_picture(report[0] / f"{stem}.png"), stem


def test_summary_is_valid_json_that_rebuilds_the_answer(report, results_dir):
    def refuse(name: str) -> float:
        raise AssertionError(name)

    content = json.loads((report[0] / "visualization_report.json").read_text(), parse_constant=refuse)
    assert content["schema_version"] == 1
    assert content["runs"] == {
        "total": 22, "complete": 16, "paused": 0, "pruned": 4, "failed": 2, "interrupted": 0, "unfinished": 0,
    }  # fmt: skip
    assert content["metric"]["ranking"] == "val_rel_error" and content["problems"] == []
    best = content["families"]["reaction_diffusion"]["best"]
    own = json.loads((results_dir / best["run"] / "config.json").read_text())
    assert own["role"] == "trial" and f"slot {own['slot']}" == best["configuration"] and own["seed"] == best["seed"]
    assert best["confirmed"] and best["n_runs"] == 2 and best["spread"] > 0
    assert set(content["families"]["reaction_diffusion"]["operators"]) == {"method_of_steps", "memory_kernel"}
    assert {study["study"] for study in content["studies"]} == set(STUDIES)
    assert all(
        set(row) == {"parameter", "spearman", "mdi", "fanova", "n"} for row in content["studies"][0]["importance"]
    )
    assert set(content["figures"]) <= {path.name for path in report[0].iterdir()}
    documented = (ROOT / "docs" / "report.md").read_text()
    assert len(content["trials"]) == 22 and {row["status"] for row in content["trials"]} == {
        "complete",
        "pruned",
        "failed",
    }
    for key in [*content, *content["configurations"][0], *content["trials"][0]]:
        assert f"`{key}`" in documented


def test_page_is_self_contained_and_answers_first(report):
    page = (report[0] / "report.html").read_text()
    tags = Tags(page).tags
    assert len(page) < 8e6
    assert {attributes.get("data-figure") for tag, attributes in tags if tag == "img"} == FIGURES
    beside = {path.name for path in report[0].iterdir()}
    sections = {f"#{attributes['id']}" for _, attributes in tags if attributes.get("id")}
    for _, attributes in tags:
        for name in ("src", "href"):
            if attributes.get(name) and not attributes[name].startswith("data:"):
                assert attributes[name] in beside | sections, "a link to a file beside the page, or into it"
    assert "http" not in re.sub(r"http-equiv", "", page)
    assert page.index("The best operator of each family") < page.index("--rerun") < page.index("<img")


def test_page_holds_every_trial_with_its_command_and_the_table_sorts_by_numbers(report, results_dir):
    page = (report[0] / "report.html").read_text()
    data = json.loads(re.search(r"id=trials>(.*?)</script>", page).group(1))
    status = {path.parent.name: json.loads(path.read_text())["status"] for path in results_dir.glob("*/final_*.json")}
    assert {row["run"] for row in data["rows"]} == {run for run, end in status.items() if end != "failed"}
    for row in data["rows"]:
        assert row["command"] == f"python hyperparameter_search.py --rerun {results_dir / row['run']}"
        assert set(row["v"]) == set(data["axes"]) and row["model"] in data["models"]
    numbers = [attributes["data-v"] for tag, attributes in Tags(page).tags if tag == "td" and "data-v" in attributes]
    assert numbers and all(text == "" or np.isfinite(float(text)) for text in numbers)


def test_page_names_the_winner_in_one_sentence_and_says_when_it_is_not_settled(report):
    page = (report[0] / "report.html").read_text()
    content = json.loads((report[0] / "visualization_report.json").read_text())
    best = content["families"]["reaction_diffusion"]["best"]
    assert f"Use {best['model']} on reaction_diffusion." in page
    other = next(row for row in content["families"]["reaction_diffusion"]["operators"].values() if row != best)
    is_near = abs(other["value"] - best["value"]) <= best["spread"] + other["spread"]
    assert ("Not settled" in page) == (is_near or other["value"] < best["value"])


def test_interactive_pages_work_offline_and_offer_no_upload(report):
    for path in report[0].glob("interactive_*.html"):
        text = path.read_text()
        assert '"showSendToCloud": false' in text or '"showSendToCloud":false' in text
        assert 'src="plotly.min.js"' in text and "cdn.plot.ly" not in text
        assert len(text) < 3e5


def test_every_format_is_written_and_pdf_fonts_are_embedded(one_trial, tmp_path):
    Visualizations(Options(one_trial("complete"), tmp_path, formats=("pdf", "svg"), width=3.5)).write()
    assert b"/FontFile2" in (tmp_path / "model_comparison.pdf").read_bytes()  # embedded TrueType
    assert b"/Type3" not in (tmp_path / "model_comparison.pdf").read_bytes()
    for path in tmp_path.glob("*.svg"):
        assert 'width="252pt"' in path.read_text(), "3.5 inches"
    assert not list(tmp_path.glob("*.png"))


def test_custom_plot_of_the_readme_appears_in_folder_and_page(one_trial, tmp_path):
    class Mine(Visualizations):
        def create_custom_plot(self, df: advanced_visualizations.pd.DataFrame) -> advanced_visualizations.plt.Figure:
            figure, axes = advanced_visualizations.plt.subplots()
            axes.plot(df["param_width"], df["test_rel_error"], "o")
            df["slot"] = "spoilt"
            return figure

        def create_broken_plot(self, df: advanced_visualizations.pd.DataFrame) -> advanced_visualizations.plt.Figure:
            raise KeyError("no such column")

        def create_empty_plot(self, df: advanced_visualizations.pd.DataFrame) -> advanced_visualizations.plt.Figure:
            pass

    mine = Mine(Options(one_trial("complete"), tmp_path / "out"))
    mine.write()
    with Image.open(tmp_path / "out" / "custom_plot.png") as picture:
        assert picture.width == 7.2 * 300, "the width of all figures"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "data-figure='custom_plot'" in page
    problems = json.loads((tmp_path / "out" / "visualization_report.json").read_text())["problems"]
    assert any("create_broken_plot" in line and "no such column" in line for line in problems)
    assert any("create_empty_plot" in line for line in problems)
    assert mine.results.runs["slot"].tolist() == [0]


def test_snippet_of_the_readme_pasted_into_the_class_is_drawn(one_trial, tmp_path):
    flags = ["--results_dir", str(one_trial("complete")), "--output_dir", str(tmp_path / "o")]
    command = [sys.executable, str(paste_custom_plot(tmp_path)), *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert is_picture(tmp_path / "o" / "custom_plot.png")


@pytest.mark.parametrize("status", ["complete", "failed", None])
def test_a_single_run_is_drawn_however_it_ended(one_trial, tmp_path, status):
    assert main(["--results_dir", str(one_trial(status)), "--output_dir", str(tmp_path / "out")]) == 0
    for stem in ("model_comparison", "parameter_importance", "convergence_analysis", "trajectories"):
        assert is_picture(tmp_path / "out" / f"{stem}.png")
    json.loads((tmp_path / "out" / "visualization_report.json").read_text())


def test_names_that_hold_markup_and_paths_stay_text(one_trial, tmp_path, capsys):
    name = "<script>alert(1)</script>../../up $x$ {body}"
    results = one_trial("complete", study=name, family="<img src=x onerror=alert(1)>")
    assert main(["--results_dir", str(results), "--output_dir", str(tmp_path / "out")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"results", "out"}
    assert all(path.parent == tmp_path / "out" for path in (tmp_path / "out").rglob("*"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>alert" not in page and "<img src=x" not in page
    scripts = [attributes.get("type") for tag, attributes in Tags(page).tags if tag == "script"]
    assert scripts == ["application/json", None]


def test_problems_of_folders_are_printed_a_line_each(one_trial, tmp_path, caplog):
    results = one_trial("complete")
    (results / "broken").mkdir()
    (results / "broken" / "config.json").write_text("[]")
    assert main(["--results_dir", str(results), "--output_dir", str(tmp_path / "out")]) == 0
    lines = [record.getMessage() for record in caplog.records if "broken" in record.getMessage()]
    assert len(lines) == 1 and "\n" not in lines[0]
    assert "broken" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    "flags", [["--models", "nobody"], ["--since", "2099-01-01"], ["--metric", "nonsense"], ["--results_dir", "nowhere"]]
)
def test_nothing_to_show_is_one_line_and_exit_code_2(one_trial, tmp_path, capsys, flags):
    arguments = ["--results_dir", str(one_trial("complete")), "--output_dir", str(tmp_path / "out"), *flags]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and flags[0] in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [["--formats", "gif"], ["--top", "0"], ["--since", "yesterday"]])
def test_malformed_flags_are_refused(capsys, flags):
    with pytest.raises(SystemExit) as stop:
        main(flags)
    assert stop.value.code == 2 and flags[0] in capsys.readouterr().err


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_output_that_cannot_be_written_is_one_line_and_exit_code_2(one_trial, tmp_path, capsys, output):
    (tmp_path / "file").write_text("")
    assert main(["--results_dir", str(one_trial("complete")), "--output_dir", str(tmp_path / output)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --output_dir") and error.count("\n") == 1


def test_folder_in_the_place_of_a_figure_is_named(one_trial, tmp_path, capsys):
    (tmp_path / "out" / "model_comparison.png").mkdir(parents=True)
    flags, page = ["--results_dir", str(one_trial("complete")), "--output_dir", str(tmp_path / "out")], "report.html"
    assert main(flags) == 0
    assert "model_comparison.png: not written: Is a directory" in (tmp_path / "out" / page).read_text()
    (tmp_path / "out" / page).unlink()
    (tmp_path / "out" / page).mkdir()
    assert main(flags) == 2
    assert capsys.readouterr().err.endswith(f"error: --output_dir {tmp_path / 'out'}: {page}: Is a directory\n")


def test_full_disk_is_one_line_and_leaves_nothing_half_written(one_trial, tmp_path, capsys):
    results, before = one_trial("complete"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # bytes of a file
    try:
        code = main(["--results_dir", str(results), "--output_dir", str(tmp_path / "out")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and error == f"error: --output_dir {tmp_path / 'out'}: File too large"
    assert not list((tmp_path / "out").iterdir())


def test_output_that_nobody_takes_leaves_the_report(one_trial, tmp_path, monkeypatch):
    results, code = one_trial("failed"), None
    with contextlib.suppress(OSError), open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code = main(["--results_dir", str(results), "--output_dir", str(tmp_path / "out")])
    assert code == 0
    assert (tmp_path / "out" / "report.html").is_file()


def test_numbers_that_cannot_be_drawn_cost_no_figure(tmp_path):
    """Infinite, tiny, zero and huge values; predictions that ran away; a trial without epochs."""
    generator = np.random.default_rng(0)
    for n in range(6):
        values = hyperparameters(generator, spatial=True)
        run = make_run(tmp_path / "results", run_config("memory_kernel", "mackey", n, values), "complete", generator)
        edit_json(
            run / "config.json", lambda config, n=n: config["hyperparameters"].update(learning_rate=10.0 ** (60 * n))
        )
        edit_json(run / "final_results.json", lambda results: results["metrics"].update(test_rel_error=1e-320))
        edit_json(run / "final_results.json", lambda results: results["files"].clear())
        head = (run / "metrics.csv").read_text().splitlines()[0]
        (run / "metrics.csv").write_text(f"{head}\n1,nan,inf,-1,nan,nan,nan\n2,1e400,,0,,,\n" if n else f"{head}\n")
        path = run / "artifacts" / "predictions.npz"
        arrays = dict(np.load(path))
        for name, value in (("best_prediction", np.inf), ("median_truth", 0.0), ("worst_truth", np.nan)):
            arrays[name] = np.full_like(arrays[name], value)
        np.savez(path, **arrays)
    assert main(["--results_dir", str(tmp_path / "results"), "--output_dir", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "visualization_report.json").read_text())
    assert len(content["figures"]) > 10 and not [line for line in content["problems"] if "no figure" in line]
    assert not [line for line in content["problems"] if "no interactive" in line]


def test_many_trials_that_all_failed_are_still_a_report(tmp_path):
    generator = np.random.default_rng(0)
    for n, model in enumerate(("method_of_steps", "memory_kernel") * 3):
        values = hyperparameters(generator, spatial=False)
        make_run(tmp_path / "results", run_config(model, "mackey", n, values), "failed", generator)
    assert main(["--results_dir", str(tmp_path / "results"), "--output_dir", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "visualization_report.json").read_text())
    assert content["runs"]["failed"] == 6 and content["families"] == {} and content["configurations"] == []
    assert all("no interactive plots" in line or "no importances" in line for line in content["problems"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "No operator can be named yet" in page and page.count("data-figure=") == 4
    assert f"6 × failed: {html.escape(content['trials'][0]['reason'])}" in page


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_missing_metrics_edited_and_older_folders_cost_a_line_each(tmp_path):
    generator = np.random.default_rng(0)
    runs = [
        make_run(
            tmp_path / "results",
            run_config("memory_kernel", "mackey", n, hyperparameters(generator, spatial=False)),
            "complete",
            generator,
        )
        for n in range(8)
    ]
    for run, change in zip(
        runs,
        (
            lambda results: results["metrics"].update(test_rel_error=None, rollout_error=None),  # not finite
            lambda results: [results["metrics"].pop(name) for name in list(results["metrics"])],  # none at all
            lambda results: results["metrics"].update(val_rel_error=-1.0, n_parameters=0),  # not possible
        ),
        strict=False,
    ):
        edit_json(run / "final_results.json", change)
    edit_json(runs[3] / "config.json", lambda config: config.update(schema_version=0))
    (runs[4] / "config.json").write_text('{"model": "memory_kernel", "lr": 0.001, "epochs": 10}')  # of another program
    (runs[5] / "metrics.csv").unlink()
    (runs[6] / "artifacts" / "predictions.npz").write_bytes(b"PK")
    assert main(["--results_dir", str(tmp_path / "results"), "--output_dir", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "visualization_report.json").read_text())
    assert content["runs"]["total"] == content["runs"]["complete"] == 6
    for run in runs[:6]:
        assert sum(run.name in line for line in content["problems"]) == 1, content["problems"]
    assert not [line for line in content["problems"] if "no figure" in line]
    for stem in ("model_comparison", "parameter_importance", "convergence_analysis", "trajectories"):
        assert is_picture(tmp_path / "out" / f"{stem}.png")


def test_draw_results_gives_the_figures_of_a_study(results_dir):
    figures = draw_results(results_dir, studies=STUDIES[:1])
    assert set(figures) == FIGURES - {f"heatmap_{STUDIES[1]}"}
    assert all(figure.axes for figure in figures.values())
