"""A recipe made to fit the machine at hand, for notebooks and first tries."""

import jax
from ml_collections import ConfigDict


def size_to_machine(config: ConfigDict, devices: list[jax.Device] | None = None) -> str:
    """Changes a config so that it runs at a sensible speed on these devices (all, if not given).

    On an accelerator the network stays what it is: eight photos a device, with the rate scaled
    linearly from the paper's batch of eight, bfloat16, and as many microbatches as the memory asks
    for. On CPU a network of a quarter of the width, unless `config.init_from` names one, learns
    from small crops.

    Returns:
        One line that says what was chosen.
    """
    devices = jax.devices() if devices is None else devices
    count, kind = len(devices), devices[0].device_kind
    if devices[0].platform == "cpu":
        if config.init_from == "random":  # Otherwise the checkpoint decides the network.
            config.model.width = 0.25
            if "fc6_kernel" in config.model:
                config.model.fc6_kernel = 3
        if "hidden" in config.model:
            config.model.hidden = 256
        # Scales from that of an evaluation on, which shows the whole shortest side.
        config.data.crop, config.data.scale = 64, (64, 129)
        config.data.batch_size = 16 * count
        config.data.holdout = 0.05
        config.optimizer.rate = 0.002
        network = "a quarter of the width" if config.init_from == "random" else "its network"
        return f"{count} x {kind}: {network}, crops of 64 pixels"
    config.data.batch_size = 8 * count
    config.optimizer.rate_batch_size = 8
    config.model.dtype = "bfloat16"
    config.microbatches = 0
    return f"{count} x {kind}: the full network, {8 * count} photos a step"
