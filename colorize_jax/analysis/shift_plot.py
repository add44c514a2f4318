"""Draws how far the features of networks moved, as the paper's Figure 3."""

from collections.abc import Mapping
import pathlib

from colorize_jax.errors import ConfigError


def draw(found: Mapping[str, Mapping[str, Mapping]], path: pathlib.Path) -> None:
    """Writes a PNG with a bar for every layer and pair: the median, with a line for the quartiles.

    Args:
        found: what `shift.measure` returned.
        path: the file.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            f"{path} needs matplotlib: pip install 'colorize_jax[study]'; shift.json is written"
        ) from None
    layers = list(next(iter(found.values())))
    figure = Figure(figsize=(max(0.5 * len(layers) + 2, 6), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    width = 0.8 / len(found)
    for i, (label, spreads) in enumerate(found.items()):
        at = [
            (number + (i - (len(found) - 1) / 2) * width, spreads[layer])
            for number, layer in enumerate(layers)
            if spreads[layer]["median"] is not None
        ]
        if not at:
            continue
        where, alive = zip(*at, strict=True)
        medians = [spread["median"] for spread in alive]
        ends = [
            [spread["median"] - spread["low"] for spread in alive],
            [spread["high"] - spread["median"] for spread in alive],
        ]
        axes.bar(where, medians, width, yerr=ends, capsize=2, label=label)
    axes.set_xticks(range(len(layers)), layers, rotation=60, ha="right")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel("correlation before and after")
    lows = [
        s["low"] for spreads in found.values() for s in spreads.values() if s["low"] is not None
    ]
    axes.set_ylim(min(-0.6, *lows) - 0.02, 1.02)  # Below the bars there is room for the legend.
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)
