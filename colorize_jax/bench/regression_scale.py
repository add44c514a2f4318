r"""Measures the factor that makes the regression loss pull as hard as the histogram loss.

python -m colorize_jax.bench.regression_scale --config=configs/vgg16_col.py:regression \
    --config.data.source=builtin:photos

At the start of training both losses send a gradient into the hidden layer of the head. The factor
is the ratio of the two root mean squares over the same batches, so that the effective learning
rates match, as the paper asks. It is then fixed in the config as task.regression_scale.
"""

import argparse
import sys

from ml_collections import ConfigDict

from colorize_jax import command_line, help
from colorize_jax.data import pipeline, sources


def measure(config: ConfigDict, batches: int = 100) -> float:
    """Ratio of the losses' gradients at the hidden units of a fresh network.

    Args:
        config: of colorization; the seed, the data and the network are taken from it.
        batches: training batches to average over.
    """
    import jax
    import jax.numpy as jnp
    from tqdm import tqdm

    from colorize_jax.tasks.registry import make_task
    from colorize_jax.training.step import row_keys

    config = ConfigDict(config.to_dict())
    config.data.batch_size = 8  # nothing depends on it
    config.task.regression_scale = 1.0
    photos, _ = sources.open_splits(config.data.source, config.data.holdout)
    key = jax.random.key(config.seed)

    def squared_gradient(loss):
        """(variables, keys, batch) -> sum of squares; and the variables of a fresh start."""
        config.task.loss = loss
        task = make_task(ConfigDict(config.to_dict()))

        def of_batch(variables, keys, batch):
            (gray, points), targets = task.prepare(keys, batch)
            columns, _ = task.model.apply(
                variables, gray, points, True, method="columns", mutable=["batch_stats"],
                rngs={"dropout": keys[0]},
            )  # fmt: skip
            head = {"params": variables["params"]["head"]}
            hidden = task.model.head.apply(head, columns, method="hidden_units")

            def total(hidden):
                outputs = task.model.head.apply(head, hidden, method="read_out")
                return task.loss(outputs, targets)[0]["loss"].sum()

            return jnp.square(jax.grad(total)(hidden)).sum()

        def fresh(batch):
            inputs, _ = task.prepare(row_keys(key, jnp.arange(len(batch["image"]))), batch)
            return task.model.init({"params": key}, *inputs)

        return jax.jit(of_batch), jax.jit(fresh)

    functions = {loss: squared_gradient(loss) for loss in ("histogram", "regression")}
    variables, sums = {}, dict.fromkeys(functions, 0.0)
    data = pipeline.training_batches(photos, config, start=0, stop=batches)
    for index, batch in enumerate(tqdm(data, total=batches, unit="batch", file=sys.stderr)):
        keys = row_keys(jax.random.fold_in(key, index), jnp.arange(len(batch["image"])))
        for loss, (of_batch, fresh) in functions.items():
            if loss not in variables:
                variables[loss] = fresh(batch)
            sums[loss] += float(of_batch(variables[loss], keys, batch))
    return (sums["histogram"] / sums["regression"]) ** 0.5


def main(asked: argparse.Namespace) -> None:
    """Prints the factor."""
    print(f"task.regression_scale = {measure(asked.config):.3g}")


def parser() -> help.Parser:
    """Of this command."""
    name = "python -m colorize_jax.bench.regression_scale"
    return help.Parser(name, description=__doc__, recipes=True)


if __name__ == "__main__":
    command_line.run(main, parser())
