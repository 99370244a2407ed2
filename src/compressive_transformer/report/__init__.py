"""Runs in numbers and pictures, made from ``metrics.jsonl``; the extra ``plot`` brings what pictures need."""

from collections.abc import Sequence
from pathlib import Path

from compressive_transformer.checkpoint import REFERENCE_FOLDER
from compressive_transformer.errors import UsageError
from compressive_transformer.report.runs import Run, read_runs

FORMATS = (".png", ".svg", ".pdf")


def draw_report(runs: Sequence[Run], out: str | Path | None = None) -> Path:
    """Draws runs side by side and returns where the picture is.

    Args:
        runs: one, or several to be compared.
        out: the picture, by its suffix as PNG, SVG or PDF. By default ``figures/report.png`` in the folder of
            a single run of one's own, and else ``report.png`` in the working directory.

    Raises:
        UsageError: matplotlib is missing, the suffix is another, or the picture can't be written.
    """
    try:
        from compressive_transformer.report.figures import draw
    except ModuleNotFoundError:
        raise UsageError(
            "the picture is not drawn, for matplotlib is missing: pip install 'compressive-transformer[plot]'"
        ) from None
    alone = len(runs) == 1 and runs[0].path != REFERENCE_FOLDER
    path = Path(out or (runs[0].path / "figures" / "report.png" if alone else "report.png"))
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path} can't be drawn; use a name that ends in {', '.join(FORMATS)}")
    try:
        if not out:
            path.parent.mkdir(exist_ok=True)
        draw(runs).savefig(path, dpi=150)
    except OSError as error:
        raise UsageError(
            f"{path} can't be written ({error.strerror}); choose another place by --out"
        ) from None
    return path


def picture_of(run: Path) -> str:
    """Draws the picture of a run and says where it is, or why there is none."""
    try:
        return str(draw_report(read_runs([run])))
    except UsageError as error:
        return str(error)
