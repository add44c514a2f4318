"""Memory: a step's need, the smallest number of microbatches that fits, and the message."""

import types

import jax
import pytest
import saved
import tiny

from colorize_jax.errors import CheckpointError, OutOfMemoryError
from colorize_jax.tasks.registry import make_task
from colorize_jax.training import loop, memory, optimizers, schedules, sharding
from colorize_jax.training.step import init_state


def _compiled(config, microbatches, rng):
    task, mesh = make_task(config), sharding.make_mesh()
    optimizer = optimizers.make_optimizer(config, schedules.make_schedule(config, 100))
    batch = sharding.put_batch(tiny.batch(rng, config.data.batch_size), mesh)
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: init_state(key, task, optimizer, batch))
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated(mesh)), shapes
    )
    step = sharding.jit_step(task, optimizer, mesh, microbatches)
    return step.lower(shapes, batch, key).compile(), shapes


@pytest.mark.slow
def test_the_smallest_number_that_fits_is_found_kept_and_resumed_with(
    tmp_path, rng, monkeypatch, capfd
):
    config = tiny.config(data__batch_size=16, microbatches=0, steps=2)
    whole, shapes = _compiled(config, 1, rng)
    half, _ = _compiled(config, 2, rng)
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
    assert memory.need(whole) > memory.need(half) > state

    pretended = (memory.need(whole) + memory.need(half)) * 1.1 / 2
    monkeypatch.setattr(memory, "available", lambda device: int(pretended))
    loop.train(config, tmp_path)
    assert "config.microbatches=0: 2 fit(s)" in capfd.readouterr().err
    # A larger machine keeps the number, because batch norm must see the same parts.
    monkeypatch.setattr(memory, "available", lambda device: 10**15)
    loop.train(tiny.config(data__batch_size=16, microbatches=0, steps=2), tmp_path)
    assert "in 2 microbatches" in capfd.readouterr().err
    config.microbatches = 1
    with pytest.raises(CheckpointError, match="microbatches: 0 there, 1 here"):
        loop.train(config, tmp_path)
    assert saved.state(tmp_path, 2)["step"] == 2


def _pretend(needs):
    """A compiler whose steps need that much memory, or fail with JAX's error."""

    def compile_step(microbatches):
        if needs[microbatches] is None:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: hbm")
        sizes = dict.fromkeys(("argument", "output", "alias", "generated_code"), 0)
        sizes = {f"{k}_size_in_bytes": v for k, v in sizes.items()}
        counted = types.SimpleNamespace(temp_size_in_bytes=needs[microbatches], **sizes)
        return types.SimpleNamespace(memory_analysis=lambda: counted)

    return compile_step


def test_only_divisors_are_tried_and_a_compiler_that_refuses_is_passed_by():
    needs, config = {1: None, 2: 50, 3: 40, 6: 20}, tiny.config(model__remat=True)
    assert memory.smallest_that_fits(_pretend(needs), 6, 45, config)[0] == 3
    assert memory.smallest_that_fits(_pretend(needs), 6, 1000, config)[0] == 2
    needs[6] = 3 * memory.GIB
    with pytest.raises(OutOfMemoryError) as caught:
        memory.smallest_that_fits(_pretend(needs), 6, 10, config)
    assert "microbatches=6, one crop of 32 pixels" in str(caught.value)
    assert "needs 3.00 GiB" in str(caught.value) and "bfloat16" in str(caught.value)
    assert "remat" not in str(caught.value)  # It is on already.


def test_running_out_names_the_batch_the_need_and_what_lowers_it(tmp_path, monkeypatch):
    plain = sharding.jit_step

    class Exhausted:
        """A step that compiles, but does not fit on the device."""

        def __init__(self, *arguments):
            self._step = plain(*arguments)

        def trace(self, *arguments):
            traced = self._step.trace(*arguments)
            compiled = types.SimpleNamespace(
                compile=lambda: self._run_out(traced.lower().compile())
            )
            return types.SimpleNamespace(lower=lambda **_: compiled)

        @staticmethod
        def _run_out(compiled):
            def run(*_):
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory: 7 bytes.\nx")

            run.memory_analysis = compiled.memory_analysis
            run.input_formats = compiled.input_formats
            return run

    monkeypatch.setattr(sharding, "jit_step", Exhausted)
    config = tiny.config(data__batch_size=16)
    with pytest.raises(OutOfMemoryError) as caught:
        loop.train(config, tmp_path)
    message = str(caught.value)
    for part in (
        "16 crops of 32 pixels in 1 microbatch(es), 4 crops a device", "on 4 x cpu",
        "By the compiler's count it needs 0.0",
        "config.microbatches=2 (or 0", "config.model.dtype=bfloat16",
        "config.model.remat=True", "JAX said: RESOURCE_EXHAUSTED: Out of memory: 7 bytes.",
    ):  # fmt: skip
        assert part in message


def test_other_errors_of_jax_pass_through():
    config = tiny.config()
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        memory.explained(config, sharding.make_mesh(), lambda: (1, 0)),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_a_cpu_counts_its_share_of_the_free_memory():
    assert 2**20 < memory.available(jax.local_devices()[0]) * 4 < 2**45
    device = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 123})
    assert memory.available(device) == 123
