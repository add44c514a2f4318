"""Reads a command line and runs the command; a user's mistake is printed as one sentence."""

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
    """Calls main with the parsed command line; mistakes are printed as one sentence.

    Output that nobody reads, or that cannot be written, does not end the command.
    """
    log.occupy_standard_streams()
    faulthandler.enable(2)  # It shows where a library crashed.
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    with log.surviving_output(), _catching_signals():
        try:
            main(parse(parser))
        except (ColorizeError, OSError) as error:
            prefix = "" if isinstance(error, Interrupted) else "error: "
            print(f"{prefix}{error}", file=sys.stderr)
            _leave(exit_code(error))
        except Exception:  # A bug of ours gives a traceback, but other hosts must not wait.
            traceback.print_exc()
            _leave(1)


def parse(
    parser: argparse.ArgumentParser, words: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parses a command line; `--config=RECIPE --config.NAME=VALUE` becomes a config.

    Args:
        parser: the parser of the command, with an argument --config if it takes a recipe.
        words: the words of the command line; None takes those of this process.

    Returns:
        argparse's result. Its `config`, if there is one, is the config, and its `stated` has the
        names of the settings on the command line, such as "model.width".

    Raises:
        ConfigError: see `recipe.load_config`.
        SystemExit: an argument is unknown; the exit code is 2.
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
    """Calls the main function of a command that cannot resume after an interruption.

    After Ctrl-C, SIGTERM or the end of the terminal, the command removes its temporary files and
    ends with a sentence and the exit code 128 + signal. A second signal ends it at once.
    """
    with _catching_signals():
        main()


class _Interruption(KeyboardInterrupt):
    """Raised in the main thread at a signal, so that the code there cleans up."""


@contextlib.contextmanager
def _catching_signals() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told: list[int] = []

    def tell(number, frame):
        if told:
            os._exit(128 + number)
        told.append(number)
        raise _Interruption

    others = sys.unraisablehook

    def dropped(unraisable):
        # Python drops what is raised in some callbacks, as in those of its garbage collector, of
        # which JAX has one. So the signal comes again.
        if isinstance(unraisable.exc_value, _Interruption):
            again = threading.Timer(0.1, os.kill, (os.getpid(), told.pop()))
            again.daemon = True
            again.start()
        else:
            others(unraisable)

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    numbers = [number for number in wanted if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, tell) for number in numbers}
    sys.unraisablehook = dropped
    try:
        yield
    except _Interruption:
        name = signal.Signals(told[0]).name
        log.say(f"\n{name}: stopped before the end; what was not finished is not there")
        _leave(128 + told[0])
    finally:
        sys.unraisablehook = others
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(code: int) -> None:
    """Ends the process, even if other hosts wait for it or a reader hangs on a dead disk."""
    signals.exit_within(signals.CLOSING_SECONDS, code)
    # An abandoned function is inside a read or inside JAX, so Python cannot end in order.
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
    """Prints text for the user, with any characters and on any terminal.

    Names of files may contain any bytes, which not every terminal can show.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(printable(text).encode(encoding, "backslashreplace").decode(encoding), flush=True)
