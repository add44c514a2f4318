"""Runs a command's main function so that a mistake of the user's becomes a sentence."""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import sys
import threading
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

from colorize_jax import help, log, paths
from colorize_jax.config import recipe
from colorize_jax.config.settings import check_numbers
from colorize_jax.errors import ColorizeError, Interrupted, exit_code, printable
from colorize_jax.training import signals


def run(main: Callable, required: tuple[str, ...] = ("config",)) -> None:
    """`app.run(main)`, with ColorizeError and mistakes in the flags printed as one sentence.

    What it prints may fail to be read or written: that ends nothing.
    """
    log.occupy_standard_streams()
    if any(word in help.FLAGS for word in sys.argv[1:]):
        own = flags.FLAGS.get_key_flags_for_module(sys.modules["__main__"])
        about = sys.modules["__main__"].__doc__ or ""
        help.show(help.of_flags(own, about, required))
        return
    flags.mark_flags_as_required(required)

    def guarded(argv):
        if len(argv) > 1:
            raise app.UsageError(f"unexpected: {' '.join(argv[1:])}")
        logging.set_verbosity(logging.WARNING)
        try:
            main(argv)
        except (ColorizeError, OSError) as error:
            prefix = "" if isinstance(error, Interrupted) else "error: "
            print(f"{prefix}{error}", file=sys.stderr)
            _leave(exit_code(error))
        except Exception:  # a fault of ours: as Python does, but without letting other hosts wait
            traceback.print_exc()
            _leave(1)

    with log.outlived(), _told_to_end():
        app.run(guarded, flags_parser=_parse)


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


def stated() -> frozenset[str]:
    """Names of the settings that the command line gives, as in "model.width"."""
    return frozenset(config_flags.get_override_values(flags.FLAGS["config"]))


def _leave(code: int) -> None:
    """Ends the process, also where other hosts wait for it, or a reader hangs on a dead disk."""
    signals.leave_within(signals.CLOSING_SECONDS, code)
    # What is left behind is in the midst of reading or of JAX: Python could not end in order.
    if signals.left_behind() or _others_wait():
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


_PATHS = ("config", "workdir", "checkpoint", "output")  # flags


def _expanded(argv: list[str]) -> list[str]:
    """The command line with ~ and $NAME replaced in the flags that are paths."""
    found, is_path = [], False
    for word in argv:
        name, equals, value = word.partition("=")
        is_flag = word.startswith("-") and name.lstrip("-") in _PATHS
        if is_flag and equals:
            word = f"{name}={paths.expand(value)}"
        elif is_path:
            word = paths.expand(word)
        is_path = is_flag and not equals
        found.append(word)
    return found


def _parse(argv):
    try:
        argv = _expanded(argv)
        for word, following in zip(argv, [*argv[1:], ""], strict=True):
            name, equals, value = word.partition("=")
            if name in ("-config", "--config"):  # says more of a broken one than absl does
                recipe.read_config(value if equals else following)
        rest = app.parse_flags_with_usage(argv)
        config = flags.FLAGS["config"].value
        if config is not None:
            paths.expand_settings(config)
            check_numbers(config)
        return rest
    except ColorizeError as error:
        sys.exit(f"error: {error}")
    except AttributeError as error:  # ml_collections' answer to a field that does not exist
        inner = error.args[0] if error.args else error
        hint = " ".join(str(inner.args[0] if isinstance(inner, Exception) else inner).split())
        sys.exit(f"error: the config has no field {hint}")
    except OSError as error:
        sys.exit(f"error: {error}")
