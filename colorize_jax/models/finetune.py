"""Which layers of a pretrained encoder are trained, and how the others are left alone."""

from collections.abc import Sequence
from typing import Any

import jax

from colorize_jax.errors import ConfigError

Tree = Any
# Labels of parameters, as `optax.partition` takes them.
TRAINED, FROZEN = "trained", "frozen"


def frozen_layers(finetune: str, layers: Sequence[str]) -> tuple[str, ...]:
    """The layers that `config.finetune` leaves as they are, from the bottom to the top.

    Args:
        finetune: "all"; "head": no layer; or names and ranges with both ends included, as in
            "fc6,fc7" or "conv1_1,conv4_1..conv5_3".
        layers: of the encoder, from the bottom to the top.

    Raises:
        ConfigError: names a layer that the encoder does not have, or a range that runs downward.
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
    """The same parameters; no gradient flows into frozen layers, and none is computed for them.

    Args:
        params: with the groups "encoder" and "head".
        frozen: groups of the encoder's parameters.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.lax.stop_gradient(x) if _is_frozen(path, frozen) else x, params
    )


def trained(group: str) -> str:
    """The label of a group of parameters that is trained in its own way."""
    return f"{TRAINED}_{group}"


def labels(params: Tree, frozen: Sequence[str], groups: Sequence[str] = ()) -> Tree:
    """The label of every parameter.

    Args:
        params: with the groups "encoder" and "head".
        frozen: groups of the encoder's parameters that are not trained.
        groups: groups of all parameters that are trained in their own way.
    """

    def label(path, _):
        if _is_frozen(path, frozen):
            return FROZEN
        return trained(path[0].key) if path[0].key in groups else TRAINED

    return jax.tree_util.tree_map_with_path(label, params)


def _is_frozen(path, frozen):
    return path[0].key == "encoder" and path[1].key in frozen
