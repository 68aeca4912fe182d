"""The command line. Verbs are imported when they are called, so that `--help` is instant and `plan` never sees torch."""

import argparse
import errno
import importlib
import os
import signal
import sys
import threading
from typing import NoReturn

from foldfit._version import __version__
from foldfit.errors import FoldfitError

VERBS = {
    "plan": "the fastest plan that fits, with its certificate",
    "run": "run a plan: promised against measured",
    "compare": "every policy side by side, and the memory-time frontier",
    "max": "the longest n_res for each of several limits",
    "analyze": "where the memory goes: the study's estimation for any sizes",
    "profile": "measure the options on this machine's device, for plans that stand on measured costs",
    "bench": "many plans measured: policies, solvers, kernels, limits and sizes, or the study's tables",
    "report": "runs as one HTML file: promised and measured, memory over time, schedule, frontier",
    "devices": "the devices that foldfit knows",
    "doctor": "what this machine has",
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser_of(verb: str | None = None) -> argparse.ArgumentParser:
    """With the flags of `verb` alone: the others' are not needed to run it."""
    parser = Parser(prog="foldfit", description="Fit any AlphaFold-type trunk into the memory you have, by the fastest schedule that fits.")
    parser.add_argument("--version", action="version", version=f"foldfit {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in VERBS.items():
        sub = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == verb:
            module = importlib.import_module(f"foldfit.cli.{name}")
            module.add_arguments(sub)
            sub.add_argument("--json", action="store_true", help="one JSON object on stdout")
            sub.set_defaults(call=module.main)
    return parser


def import_torch() -> None:
    """PyTorch aborts when Ctrl-C comes through its imports: until they are done it ends the process at once, in one line."""

    def end(*_: object) -> None:
        print("foldfit: interrupted; nothing was left half-written", file=sys.stderr, flush=True)
        os._exit(1)

    ours = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, end) if ours else None
    try:
        importlib.import_module("torch.distributed")
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def main(argv: list[str] | None = None) -> int:
    """Runs a verb. Returns the exit code: 0 ok, 1 failed, 2 bad input, 3 nothing fits, 4 not supported, 5 environment, 6 broken promise."""
    argv = sys.argv[1:] if argv is None else argv
    verb = next((a for a in argv if a in VERBS), None)
    args = parser_of(verb).parse_args(argv)
    try:
        code = args.call(args) or 0
        sys.stdout.flush()
        return code
    except FoldfitError as error:
        say(args.verb, str(error))
        return error.exit_code
    except KeyboardInterrupt:
        say(args.verb, "interrupted; nothing was left half-written")
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left of the output, at the interpreter's end
        say(args.verb, f"cannot write: {error.strerror}; make room")
        return 5


def say(verb: str, text: str) -> None:
    """In one piece: several ranks write into one terminal."""
    sys.stderr.write(f"foldfit {verb}: {text}\n")
