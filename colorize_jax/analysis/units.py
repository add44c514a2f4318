"""Which units are shown: chosen by a rule, and not by hand; and what became of them."""

from collections.abc import Callable
import re

import numpy as np

from colorize_jax.analysis import peaks
from colorize_jax.errors import ConfigError

REUSED, SPECIALIZED, REPLACED, DEAD = "reused", "specialized", "replaced", "dead"
KINDS = (REUSED, SPECIALIZED, REPLACED, DEAD)
_RULES: dict[str, tuple[str, Callable[[peaks.Best], np.ndarray]]] = {
    "spread": ("spread of color", peaks.color_spread),
    "chroma": ("mean chroma", peaks.mean_chroma),
}
_USUAL = 64  # units, if it is not said which
_WAYS = (
    "every:N (units 0, N, 2N, ...), spread:N or chroma:N (the N units whose patches have the least "
    "and the most spread of color, or mean chroma), or numbers, as in 3,17"
)


class Rule:
    """Chooses units.

    Args:
        text: "every:64", "spread:16", "chroma:16", or numbers as in "3,17"; "": every so many that
            about 64 are shown.
        units: the number of units of the layer.

    Attributes:
        early: the chosen units, if they do not depend on the answers; else None.

    Raises:
        ConfigError: it is no rule, or a unit is out of range.
    """

    def __init__(self, text: str, units: int):
        text = text or f"every:{max(units // _USUAL, 1)}"
        self._text, self._units, self.early = text, units, None
        kind, _, number = text.partition(":")
        wrong = f"--units={text}: the layer has units 0 to {units - 1}"
        if kind in ("every", *_RULES) and re.fullmatch(r"\d{1,9}", number):
            self._kind, self._number = kind, int(number)
            if not 0 < self._number <= units:
                raise ConfigError(f"{wrong}; give a number from 1 to {units}")
            if kind == "every":
                self.early = np.arange(0, units, self._number)
            elif self._number < 2:
                raise ConfigError(f"--units={text}: give 2 or more, as both ends are shown")
        elif re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
            self._kind = ""
            self.early = np.array(list(dict.fromkeys(map(int, text.split(",")))))
            if self.early.max() >= units:
                raise ConfigError(f"{wrong}; there is no unit {self.early.max()}")
        else:
            raise ConfigError(f"--units={text}: give {_WAYS}")

    def __str__(self) -> str:
        if self._kind == "every":
            first = ", ".join(map(str, self.early[:3]))
            return f"the units {first} and so on" if self._number > 1 else "all units"
        if self._kind:
            return (
                f"the {self._number // 2} units with the least {_RULES[self._kind][0]} of their "
                f"patches, and the {self._number - self._number // 2} with the most"
            )
        return "units that were named by hand, and not chosen by a rule"

    def choose(self, best: peaks.Best) -> np.ndarray:
        """The chosen units, by the answers of all units of the layer.

        Raises:
            ConfigError: too few units have a full set of patches.
        """
        if self.early is not None:
            return self.early
        values = _RULES[self._kind][1](best)
        # A unit with a patch less would have less spread for that reason alone.
        able = np.flatnonzero(best.answered.all(1) & np.isfinite(values))
        if len(able) < self._number:
            raise ConfigError(
                f"--units={self._text}: {len(able)} of {self._units} units answer in "
                f"{best.value.shape[1]} photos: ask for fewer units, for fewer --patches, or give "
                "more photos"
            )
        order = able[np.argsort(values[able], kind="stable")]
        least = self._number // 2
        return np.concatenate([order[:least], order[len(order) - (self._number - least) :]])


def kinds(correlation: np.ndarray, replaced: float, reused: float) -> np.ndarray:
    """What became of units, of `KINDS`: [units] of str.

    Args:
        correlation: of the answers before and after, [units]; NaN: dead in one of the networks.
        replaced: below it a unit is replaced.
        reused: from here on a unit is reused; in between it is specialized.
    """
    found = np.where(correlation >= reused, REUSED, SPECIALIZED)
    found = np.where(correlation < replaced, REPLACED, found)
    return np.where(np.isnan(correlation), DEAD, found)
