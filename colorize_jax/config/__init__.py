"""The settings of runs, the Python files that set them, and a machine's own sizes for them."""

from colorize_jax.config.settings import (
    NETWORKS,
    check_numbers,
    config_form,
    default_config,
    default_like,
    shrink,
    suited,
    transfer,
    transfer_rates,
    variants,
)

__all__ = [
    "NETWORKS", "check_numbers", "config_form", "default_config", "default_like", "shrink",
    "suited", "transfer", "transfer_rates", "variants",
]  # fmt: skip
