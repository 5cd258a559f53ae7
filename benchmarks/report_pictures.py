"""Draws the pictures of docs/report.md: python benchmarks/report_pictures.py RESULTS_DIR  →  docs/images/report_*.png

The top of the page as Debian's Chromium shows it, three figures in two columns of a paper, and three in one.
"""

import argparse
import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

IMAGES = ROOT / "docs" / "images"
FIGURES = {7.2: ("model_comparison", "trajectories", "convergence_analysis")}
FIGURES |= {3.5: ("model_comparison", "convergence_analysis", "heatmap")}
WIDTH, PAGE_HEIGHT = 1080, 1000  # pixels
PIXELS_PER_INCH = 150


def shrink(picture: Image.Image, path: Path, width: int) -> None:
    """Writes the picture this many pixels wide, with 128 colours."""
    small = picture.convert("RGB").resize(
        (width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS
    )
    small.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def top_of_page(page: Path) -> Image.Image:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": WIDTH, "height": PAGE_HEIGHT})
        tab.goto(page.as_uri())
        content = tab.screenshot()
        browser.close()
    return Image.open(io.BytesIO(content))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("results_dir", type=Path, help="folder with the run folders of a search")
    results_dir = parser.parse_args().results_dir
    import matplotlib

    from advanced_visualizations import Options, Visualizations

    matplotlib.use("Agg")
    for inches, names in FIGURES.items():
        with tempfile.TemporaryDirectory() as folder:
            Visualizations(Options(results_dir, Path(folder), width=inches)).write()
            kind = "report" if inches == max(FIGURES) else "report_narrow"
            for name in names:
                path = sorted(Path(folder).glob(f"{name}*.png"))[0]  # of the heatmaps the first
                shrink(Image.open(path), IMAGES / f"{kind}_{name}.png", round(PIXELS_PER_INCH * inches))
            if kind == "report":
                shrink(top_of_page(Path(folder) / "report.html"), IMAGES / "report_page.png", WIDTH)
    return 0


if __name__ == "__main__":
    sys.exit(main())
