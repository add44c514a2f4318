"""Samples the pixels of a crop at which a dense task is trained."""

import jax

from colorize_jax.errors import ConfigError
from colorize_jax.models import hypercolumn


def _edge_buffer(config):
    return config.data.get_ref("crop") * 96 // 352


# The settings of every task that is trained at points.
SETTINGS = {
    "points": 128,  # The number of sampled pixels in every photo.
    # The width in pixels of the border that is never sampled: 96 of 352, scaled with the crop.
    "edge_buffer": _edge_buffer,
    "model.hypercolumn": True,  # The head reads the hypercolumn, and not the top layer alone.
    # Where the cells of a coarse map lie in the input: "corner" (as released) or "center".
    "model.alignment": "corner",
    "model.hidden": 1024,  # The number of units of the head's hidden layer.
}


def sample_points(key: jax.Array, *, points: int, edge_buffer: int, crop: int) -> jax.Array:
    """Uniform integer points (y, x), [points, 2], `edge_buffer` pixels or more from each border."""
    return jax.random.randint(key, (points, 2), edge_buffer, crop - edge_buffer)


def of_rows(keys: jax.Array, config) -> jax.Array:
    """Points of a batch by the config, integer (y, x) [rows, points, 2]; each row has a key."""

    def of_row(key):
        return sample_points(
            key,
            points=config.task.points,
            edge_buffer=config.task.edge_buffer,
            crop=config.data.crop,
        )

    return jax.vmap(of_row)(keys)


def check(config, model) -> None:
    """ConfigError if a point network cannot be trained with these points and crops."""
    task, crop = config.task, config.data.crop
    if config.model.alignment not in hypercolumn.ALIGNMENTS:
        raise ConfigError(
            f"config.model.alignment is {config.model.alignment!r}; "
            f"known: {', '.join(map(repr, hypercolumn.ALIGNMENTS))}"
        )
    if task.edge_buffer < 0 or 2 * task.edge_buffer >= crop:
        raise ConfigError(
            f"config.task.edge_buffer={task.edge_buffer} leaves no pixel of a crop of "
            f"{crop} to sample: twice the buffer must be below the crop"
        )
    if task.points < 1:
        raise ConfigError("config.task.points must be positive")
    check_dense(config, model.encoder)


def check_dense(config, encoder) -> None:
    """ConfigError if a network that predicts at every pixel cannot be trained on these crops."""
    crop = config.data.crop
    if getattr(encoder, "fc6_padding", "SAME") != "SAME":
        raise ConfigError(
            f"config.model.fc6_padding={encoder.fc6_padding!r} is for classification: a network "
            "that answers at every pixel needs 'SAME'"
        )
    coarsest = max(encoder.strides.values())
    if crop % coarsest:
        raise ConfigError(
            f"config.data.crop={crop} must be a multiple of {coarsest}, the stride of "
            f"{config.model.name}'s top layer"
        )
