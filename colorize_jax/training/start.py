"""The start of a run: loads a pretrained encoder and adapts it for transfer."""

from collections.abc import Callable, Iterable
import dataclasses
import pathlib
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.checkpoints import manifest, reading
from colorize_jax.errors import CheckpointError, ConfigError
from colorize_jax.models import registry
from colorize_jax.surgery import first_conv, rebalance
from colorize_jax.surgery.absorb import absorb_batch_norm

Tree = Any
RANDOM = "random"  # It stands in place of a path.


@dataclasses.dataclass(frozen=True)
class Start:
    """A loaded encoder to start from.

    Attributes:
        folder: the checkpoint.
        variables: the encoder's variables, {"params": ..., "batch_stats": ...}.
        layers: the names of the encoder's layers.
        done: the changes that were made to it, in words.
        left_over: the names in the checkpoint that are not used.
    """

    folder: pathlib.Path
    variables: dict[str, Tree]
    layers: tuple[str, ...]
    done: list[str]
    left_over: list[str]


def find(config) -> pathlib.Path | None:
    """The checkpoint of `config.init_from`; None for a random start.

    Raises:
        ConfigError: the setting is empty.
        CheckpointError: there is no complete checkpoint; see `reading.find`.
    """
    if not config.init_from:
        raise ConfigError(
            "config.init_from is empty: name the workdir of a pretrained network, as in "
            "--config.init_from=/ckpt/vgg16, or take the recipe's variant :random"
        )
    return None if config.init_from == RANDOM else reading.find(config.init_from)


def check(config, encoder, folder: pathlib.Path | None) -> None:
    """Raises an error that names the differences if a checkpoint's encoder does not fit.

    It reads no weights.

    Args:
        config: the config of the run.
        encoder: the encoder of the run's model.
        folder: what `find` returned.
    """
    if folder is None:
        if config.rebalance_photos:
            raise ConfigError("config.rebalance_photos needs a config.init_from")
        return
    found = reading.saved_encoder(folder)
    wrong = []
    if type(found) is not type(encoder):
        ours, theirs = map(registry.name_of, (encoder, found))
        wrong.append(f"config.model.name is {ours!r} here and {theirs!r} there")
    else:
        for name in encoder.architecture:
            theirs, ours = getattr(found, name), getattr(encoder, name)
            if theirs != ours:
                wrong.append(f"config.model.{name} is {ours!r} here and {theirs!r} there")
        if "layer" in (found.norm, encoder.norm) and found.norm != encoder.norm:
            wrong.append(f"config.model.norm is {encoder.norm!r} here and {found.norm!r} there")
    if wrong:
        raise CheckpointError(
            f"the network in {config.init_from} is another one: {'; '.join(wrong)}. Set the "
            "config to it"
        )
    if found.norm == "none" and encoder.norm == "batch" and registry.has_batch_norm(encoder):
        raise ConfigError(
            f"the network in {config.init_from} has no batch norm: set config.model.norm='none'"
        )
    if config.rebalance_photos:
        rebalance.check(encoder)


def identity(config, folder: pathlib.Path | None) -> str | None:
    """Identifies the start, independent of its path; None if the run needs no checkpoint (now).

    Args:
        config: the config of the run.
        folder: what `find` returned, or None if it was not called.
    """
    if folder is not None:
        return f"step {folder.name}, manifest {manifest.digest(folder)[:16]}"
    return RANDOM if config.init_from == RANDOM else None


def load_start(
    config, encoder, folder: pathlib.Path, photos: Callable[[int], Iterable[jax.Array]]
) -> Start:
    """Loads the encoder of a checkpoint and adapts it to `encoder`.

    Args:
        config: the config of the run, which `check` has passed.
        encoder: the encoder of the run's model.
        folder: what `find` returned.
        photos: count -> uint8 batches of at least this many training photos.
    """
    # 1. Load the encoder of the pretrained network. Its head is never used again.
    found, variables = reading.load_encoder(folder)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    done, layers = [], found.layers
    # 2. Absorb batch norm into weights and biases.
    if batch_stats and encoder.norm == "none":
        params, batch_stats = absorb_batch_norm(params, batch_stats), {}
        found = found.clone(norm="none")
        done.append("batch norm absorbed")
    # Batch norm that is kept starts with a new count, so that its running averages follow the new
    # photos from the first step on. With the old count they would lag for thousands of steps.
    batch_stats = {
        name: stats
        if encoder.layer_of(name) in encoder.frozen
        else stats | {"count": np.zeros((), np.float32)}
        for name, stats in batch_stats.items()
    }
    # 3. Rebalance to activations of unit variance, for networks trained without batch norm.
    if config.rebalance_photos:
        inputs = (found.network_input(batch) for batch in photos(config.rebalance_photos))
        # The encoder is measured as the run will use it, but in full precision.
        whole = encoder.clone(in_channels=found.in_channels, dtype=jnp.float32)
        params, factors = rebalance.rebalance(whole, params, inputs)
        shown = ", ".join(f"{name} x{factors[name]:.3g}" for name in (layers[0], layers[-1]))
        done.append(f"rebalanced on {config.rebalance_photos} photos ({shown})")
    # 4. Convert the first layer to color or gray.
    if found.in_channels != encoder.in_channels:
        first, to_color = layers[0], encoder.in_channels == 3
        convert = first_conv.to_color if to_color else first_conv.to_gray
        kernel = convert(params[first]["kernel"])
        params = params | {first: params[first] | {"kernel": kernel}}
        done.append(f"{first} reads {'color' if to_color else 'gray'}")
    # 5. FoV blocks and head are new: they keep the run's random start.
    variables = {"params": params} | ({"batch_stats": batch_stats} if batch_stats else {})
    return Start(folder, variables, layers, done, reading.groups_besides(folder, "encoder"))


def place(state, found: Start, sharding):
    """The state with its random encoder replaced by the loaded one.

    Raises:
        CheckpointError: a parameter does not fit; the message names it.
    """

    def replaced(kind: str) -> Tree:
        tree = state.variables[kind]
        ours = traverse_util.flatten_dict(tree.get("encoder", {}), sep="/")
        theirs = traverse_util.flatten_dict(found.variables.get(kind, {}), sep="/")
        for name in sorted(ours.keys() | theirs.keys()):
            here, there = (t[name].shape if name in t else "missing" for t in (ours, theirs))
            if here != there:
                raise CheckpointError(
                    f"{kind}/encoder/{name} does not fit: {here} here, {there} in the checkpoint"
                )
        if not ours:
            return tree
        # Every host has loaded all values, so each places its own part.
        placed = jax.device_put(jax.tree.map(np.asarray, found.variables[kind]), sharding)
        return tree | {"encoder": placed}

    return state.with_variables(
        state.variables | {kind: replaced(kind) for kind in ("params", "batch_stats")}
    )


def describe(config, found: Start, state) -> str:
    """Lines about loaded, new and unused layers; with config.log.names they list every name."""
    loaded = [f"encoder/{name}" for name in found.layers]
    new = [f"{group}/{name}" for group in sorted(state.params) if group != "encoder"
           for name in state.params[group]]  # fmt: skip
    done = f" ({'; '.join(found.done)})" if found.done else ""
    parts = {
        f"loaded from {found.folder}{done}": loaded,
        "new": new,
        "left over in the checkpoint": found.left_over,
    }
    lines = ["starting from a pretrained encoder:"]
    for title, names in parts.items():
        shown = ", ".join(names) if config.log.names else _short(names)
        lines.append(f"  {title}: {shown}")
    return "\n".join(lines)


def _short(names: list[str]) -> str:
    if len(names) <= 4:
        return ", ".join(names) or "nothing"
    return f"{len(names)} layers, {names[0]} to {names[-1]}"
