"""Chooses the layers of a pretrained encoder that are trained, and freezes the others."""

from collections.abc import Sequence
from typing import Any

import jax

from colorize_jax.errors import ConfigError

Tree = Any
# The labels of parameters for `optax.partition`.
TRAINED, FROZEN = "trained", "frozen"


def frozen_layers(finetune: str, layers: Sequence[str]) -> tuple[str, ...]:
    """The layers that `config.finetune` freezes, from the bottom to the top.

    Args:
        finetune: what is trained: "all"; "head", which trains no layer; or names and ranges that
            include both ends, such as "fc6,fc7" or "conv1_1,conv4_1..conv5_3".
        layers: the encoder's layers, from the bottom to the top.

    Raises:
        ConfigError: the encoder lacks a layer, or a range runs from top to bottom.
    """
    if finetune == "all":
        return ()
    if finetune == "head":
        return tuple(layers)
    trained = set()
    for part in finetune.split(","):
        ends = [name.strip() for name in part.split("..", 1)]
        start, stop = (_index(name, finetune, layers) for name in (ends[0], ends[-1]))
        if stop < start:
            raise ConfigError(
                f"config.finetune={finetune!r}: {ends[0]} lies above {ends[-1]}; write "
                f"{ends[-1]}..{ends[0]}"
            )
        trained.update(layers[start : stop + 1])
    return tuple(name for name in layers if name not in trained)


def _index(name, finetune, layers):
    if name not in layers:
        raise ConfigError(
            f"config.finetune={finetune!r} names the layer {name!r}; known: 'all', 'head', "
            f"and of the encoder {', '.join(layers)}"
        )
    return layers.index(name)


def freeze(params: Tree, frozen: Sequence[str]) -> Tree:
    """The same parameters, but no gradient is computed for frozen layers.

    Args:
        params: parameters with the groups "encoder" and "head".
        frozen: the groups of the encoder's parameters that are not trained.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.lax.stop_gradient(x) if _is_frozen(path, frozen) else x, params
    )


def trained(group: str) -> str:
    """The label of a group of parameters with its own optimizer."""
    return f"{TRAINED}_{group}"


def labels(params: Tree, frozen: Sequence[str], groups: Sequence[str] = ()) -> Tree:
    """The label of every parameter.

    Args:
        params: parameters with the groups "encoder" and "head".
        frozen: the groups of the encoder's parameters that are not trained.
        groups: the groups of parameters with their own optimizers.
    """

    def label(path, _):
        if _is_frozen(path, frozen):
            return FROZEN
        return trained(path[0].key) if path[0].key in groups else TRAINED

    return jax.tree_util.tree_map_with_path(label, params)


def _is_frozen(path, frozen):
    return path[0].key == "encoder" and path[1].key in frozen
