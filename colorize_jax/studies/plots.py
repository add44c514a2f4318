"""Draws training curves and the scores of snapshots as a PNG."""

import pathlib
import statistics

from colorize_jax.errors import ConfigError
from colorize_jax.studies import page
from colorize_jax.studies.plan import Plot, Sensitivity
from colorize_jax.studies.workplace import Workplace

_SMOOTH = 0.9  # the decay of the running average that is drawn over the raw curve


def draw(place: Workplace, plot: Plot | Sensitivity, path: pathlib.Path) -> None:
    """Writes the picture; runs that are not done are left out.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "plots need matplotlib: pip install 'colorize_jax[study]'; the tables do not"
        ) from None
    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    if isinstance(plot, Sensitivity):
        _trade_off(figure, page.sensitivity(place, plot))
    else:
        _curves(figure, place, plot)
    figure.savefig(path, dpi=110)


def _trade_off(figure, found: dict[str, tuple[float, float, float]]) -> None:
    """The mean score of every row against its sensitivity; up and left is better."""
    axes = figure.subplots()
    for label, (mean, deviation, _) in found.items():
        axes.plot(100 * deviation, 100 * mean, "o")
        at, name = (100 * deviation, 100 * mean), label.replace("`", "")  # Markdown's mark of code
        axes.annotate(name, at, xytext=(5, 4), textcoords="offset points")
    axes.margins(x=0.15)
    axes.set_xlabel("sensitivity to the number of photos, points")
    axes.set_ylabel("mean score, %")
    axes.grid(alpha=0.3)


def _curves(figure, place: Workplace, plot: Plot) -> None:
    loss, worth = figure.subplots(2, 1, sharex=True)
    colors = {}
    for label, name in plot.curves.items():
        found = place.results(name)
        rows = [r for r in place.metrics(name) if r.get("train/loss") is not None]
        if not rows or found is None:
            continue
        batch = _batch(place, name)
        photos = [row["step"] * batch for row in rows]
        losses = [row["train/loss"] for row in rows]
        (line,) = loss.plot(photos, _smoothed(losses), label=label)
        colors[label] = line.get_color()
        loss.plot(photos, losses, color=line.get_color(), alpha=0.25, linewidth=0.7)
        for drop in found["schedule"]["drops"]:
            loss.axvline(drop * batch, color=line.get_color(), linestyle=":", linewidth=1)
    for label, along in plot.points.items():
        where, mean, error = [], [], []
        for photos, runs in sorted(along.items()):
            values = [v for r in runs if (v := place.score(r, plot.score)) is not None]
            if values:
                where.append(photos)
                mean.append(100 * statistics.mean(values))
                error.append(100 * statistics.stdev(values) if len(values) > 1 else 0.0)
        if where:
            worth.errorbar(
                where, mean, error, marker="o", capsize=3, label=label, color=colors.get(label)
            )
    loss.set_ylabel("training loss")
    worth.set_ylabel(f"{plot.score.removeprefix('eval/')} after transfer, %")
    worth.set_xlabel("photos seen in pretraining")
    for axes in (loss, worth):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()


def _batch(place: Workplace, name: str) -> int:
    run = next(run for run in place.study.runs() if run.name == name)
    return int(run.settings["data.batch_size"])


def _smoothed(values: list[float]) -> list[float]:
    found, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = _SMOOTH * mean + (1 - _SMOOTH) * value, _SMOOTH * weight + (1 - _SMOOTH)
        found.append(mean / weight)
    return found
