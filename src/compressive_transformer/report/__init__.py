"""Pictures of runs, made from ``metrics.jsonl`` alone; the extra ``plot`` brings what they need."""

from pathlib import Path


def picture_of(run: Path) -> str:
    """Draws the picture of a run and says where it is, or why there is none."""
    try:
        from compressive_transformer.report.figures import draw_run
    except ModuleNotFoundError:
        return "not drawn, for matplotlib is missing: pip install 'compressive-transformer[plot]'"
    return str(draw_run(run))
