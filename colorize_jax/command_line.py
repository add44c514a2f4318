"""Reads a command line and runs the command so that a mistake of the user's becomes a sentence."""

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import traceback

from absl import logging

from colorize_jax import log
from colorize_jax.config import recipe
from colorize_jax.errors import ColorizeError, Interrupted, exit_code, printable
from colorize_jax.training import signals


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Calls main with what the command line says; mistakes are printed as one sentence.

    What it prints may fail to be read or written: that ends nothing.
    """
    log.occupy_standard_streams()
    faulthandler.enable(2)  # tells where a library crashed
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    with log.outlived(), _told_to_end():
        try:
            main(parse(parser))
        except (ColorizeError, OSError) as error:
            prefix = "" if isinstance(error, Interrupted) else "error: "
            print(f"{prefix}{error}", file=sys.stderr)
            _leave(exit_code(error))
        except Exception:  # a fault of ours: as Python does, but without letting other hosts wait
            traceback.print_exc()
            _leave(1)


def parse(
    parser: argparse.ArgumentParser, words: Sequence[str] | None = None
) -> argparse.Namespace:
    """A command line, whose `--config=RECIPE --config.NAME=VALUE` becomes a config.

    Args:
        parser: of the command; --config is an argument of it if it takes a recipe.
        words: of the command line; None: those of this process.

    Returns:
        What argparse gives. If it has `config`, that is the config, and `stated` has the names of
        the settings that the command line gives, as in "model.width".

    Raises:
        ConfigError: see `recipe.load_config`.
        SystemExit: with 2, if there is an argument that the command does not know.
    """
    changes, others = recipe.split(sys.argv[1:] if words is None else words)
    asked = parser.parse_args(others)
    if hasattr(asked, "config"):
        asked.config = recipe.load_config(asked.config, changes)
        asked.stated = recipe.stated(changes)
    elif changes:
        parser.error(f"--config.{changes[0]}: this command takes no recipe")
    return asked


def interruptible(main: Callable[[], None]) -> None:
    """Calls the main function of a command that has nothing to go on with when it is interrupted.

    Ctrl-C, SIGTERM and a terminal that goes away end it as soon as it has removed its drafts, with
    a sentence and 128 + the signal's number; a second one ends it at once.
    """
    with _told_to_end():
        main()


class _Told(KeyboardInterrupt):
    """Raised in the main thread; what it was doing tidies up."""


@contextlib.contextmanager
def _told_to_end() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told: list[int] = []

    def tell(number, frame):
        if told:
            os._exit(128 + number)
        told.append(number)
        raise _Told

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    numbers = [number for number in wanted if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, tell) for number in numbers}
    try:
        yield
    except _Told:
        name = signal.Signals(told[0]).name
        log.say(f"\n{name}: stopped before the end; what was not finished is not there")
        _leave(128 + told[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(code: int) -> None:
    """Ends the process, also where other hosts wait for it, or a reader hangs on a dead disk."""
    signals.exit_within(signals.CLOSING_SECONDS, code)
    # What is left behind is in the midst of reading or of JAX: Python could not end in order.
    if signals.abandoned_function_runs() or _others_wait():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _others_wait() -> bool:
    if "jax" not in sys.modules:
        return False
    from colorize_jax.training import hosts

    return hosts.others_wait()


def say(text: str) -> None:
    """Prints what a person asked for, whatever is in it, and whatever the terminal has letters
    for: names of files are bytes that others chose."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(printable(text).encode(encoding, "backslashreplace").decode(encoding), flush=True)
