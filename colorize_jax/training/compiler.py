"""What XLA is told when it compiles a training step."""

import functools

import jax
import jax.numpy as jnp

# XLA's CPU backend hands convolutions to YNNPACK. For the gradient of a kernel over large maps
# that takes up to ten times as long as XLA's own convolution; products of matrices may stay there.
_CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


def options(platform: str) -> dict[str, str]:
    """`compiler_options` of jax.jit for a platform; none that this version of XLA does not know."""
    return _CPU if platform == "cpu" and known(tuple(_CPU.items())) else {}


@functools.cache
def known(settings: tuple[tuple[str, str], ...]) -> bool:
    """Whether the CPU backend compiles with (name, value) of these settings."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        empty = jax.jit(lambda: jnp.zeros(()), compiler_options=dict(settings))
        try:
            empty.lower().compile()
        except jax.errors.JaxRuntimeError:
            return False
    return True
