"""Ends a run: with its results, after a signal, after a step that is not finite, or on an error."""

import dataclasses
import math

import jax

from colorize_jax.errors import Interrupted, NonFiniteError, SaveError, why
from colorize_jax.log import say_once
from colorize_jax.training import hosts, nonfinite, results, search, sharding
from colorize_jax.training.meter import NonFiniteStep
from colorize_jax.training.run import Run
from colorize_jax.training.step import pass_over


def write_results(run: Run) -> None:
    """Writes the table, the pictures and, last, results.json, which marks the rest as complete."""
    setup, progress = run.setup, run.progress
    if not run.scoring.rows:  # An earlier process made the last evaluation.
        with run.spending("evaluation"):
            run.score(run.scoring.due(run.last, run.evaluate_every, last=True))
    run.tick()
    found = results.Results(
        config=setup.config, step=progress.step, scores=progress.scores, best=progress.best,
        score=setup.task.score, checkpoint=run.saved.directory / str(run.last),
        which=progress.which, trained_on=progress.photos, evaluated_on=run.scoring.photos,
        digest=progress.names, seconds=progress.seconds, start=progress.start,
        unreadable=run.scoring.unreadable, steps=run.schedule.steps, drops=run.schedule.drops,
        evaluators=run.scoring.evaluators,
    )  # fmt: skip
    say_once(results.table(found))
    with run.spending("evaluation"):
        run.scoring.write_pictures(run.workdir, run.state.variables)
    if progress.search is not None:
        hosts.first_does(
            lambda: search.write(
                run.workdir, progress.search, step=run.last, photos=progress.photos,
                batch_size=setup.config.data.batch_size, held_out=len(setup.held_out),
            )
        )  # fmt: skip
    run.tick()
    found = dataclasses.replace(found, seconds=progress.seconds, spent=progress.spent)
    say_once(results.shares(found))
    hosts.first_does(lambda: results.write(run.workdir / results.FILE, found))


def save_and_stop(run: Run) -> None:
    """Saves the state after a signal.

    Raises:
        Interrupted: always, if it could be saved.
        SaveError: if it could not be saved.
    """
    if run.progress.step > run.saved_step:
        try:
            run.save()
        except NonFiniteStep as found:
            try:
                skip_step(run, found)
            except NonFiniteError as error:
                save_after_error(run, error)
                raise
            run.save()
    step = run.progress.step
    what = f"{run.signals.received or 'a signal to another host'}: stopped after step"
    if not run.last_state_is_saved():
        raise SaveError(
            f"{what} {step}, which could not be saved: {run.saved.failure}. "
            f"{run.newest_checkpoint()}"
        )
    run.signals.exit_soon()
    if not step:
        raise Interrupted(f"{what} 0: nothing is lost; the same command starts again")
    raise Interrupted(
        f"{what} {step} of {run.last}, which is saved; the same command goes on from there"
    )


def save_after_error(run: Run, error: BaseException) -> None:
    """Saves the state after any error has ended the loop.

    It does nothing with several hosts, because all must save together and the others know nothing
    of the error. It does nothing if the step itself has failed, because its state is then lost.
    """
    insisted = isinstance(error, KeyboardInterrupt) and run.signals.received
    if jax.process_count() > 1 or run.progress.step <= run.saved_step or insisted:
        return
    try:
        try:
            run.save()
        except NonFiniteStep as found:  # The latch has kept the state before that step.
            run.progress.step = found.step - 1
            run.save()
        if not run.last_state_is_saved():
            raise SaveError(run.saved.failure)
    except Exception as failure:
        say_once(
            f"step {run.progress.step} could not be saved: {why(failure)}. "
            f"{run.newest_checkpoint()}"
        )
        return
    say_once(f"stopped after step {run.progress.step}, which is saved, for the reason that follows")


def skip_step(run: Run, found: NonFiniteStep) -> None:
    """Reports a step that was not finite, and prepares the run to continue after it.

    The latch has kept the state before that step, even if later steps were started.

    Raises:
        NonFiniteError: config.nonfinite_skips steps were skipped already.
    """
    config, progress = run.setup.config, run.progress
    progress.step = found.step - 1
    shown = ", ".join(f"{name} {value:.4g}" for name, value in found.metrics.items())
    if all(map(math.isfinite, found.metrics.values())):
        shown += ", but its update overflows"
    said = f"step {found.step} is not finite ({shown}); "
    try:
        path = nonfinite.write_report(
            run.workdir, config, found, run.state, run.setup.training, progress.microbatches
        )
        said += f"{path} names its batch, and --config.replay={path} shows where it begins"
    except Exception as error:  # The run can go on without the report, for example on a full disk.
        said += f"its report could not be written: {why(error)}"
    if len(progress.skipped) >= config.nonfinite_skips:
        run.saved.wait()
        raise NonFiniteError(
            f"{said}. {run.newest_checkpoint()}. A run with a lower config.optimizer.rate, in "
            f"another --workdir, may get through; config.nonfinite_skips="
            f"{len(progress.skipped) + 1} would go on without the batch"
        )
    progress.skipped.append(found.step)
    say_once(f"{said}; going on without it ({len(progress.skipped)} so far)")
    places = sharding.of_state(run.setup.task, run.state, run.setup.mesh)
    run.take(jax.jit(pass_over, out_shardings=places)(run.state, found.step))
    progress.step = found.step
