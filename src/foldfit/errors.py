"""The errors foldfit raises on purpose, and the exit code each stands for. Imports nothing of ours."""


class FoldfitError(Exception):
    """Base of the errors that the command line turns into one line and an exit code; a line break in a name that the user gave is none
    in the message."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class BadInput(FoldfitError, ValueError):
    """Your input is wrong: says what was expected, what was got, what to do. Exit code 2."""

    exit_code = 2


class DoesNotFit(FoldfitError, ValueError):
    """No plan fits the memory limit: need, have, what fits, what to type. Exit code 3.

    `need` and `have` are bytes; `where` is the sub-module that sets the need.
    """

    exit_code = 3

    def __init__(self, message: str, *, need: int = 0, have: int = 0, where: str = ""):
        super().__init__(message)
        self.need, self.have, self.where = need, have, where


class NotSupported(FoldfitError, NotImplementedError):
    """This implementation, stack or version cannot do what was asked. Exit code 4."""

    exit_code = 4


class MissingEnvironment(FoldfitError):
    """The environment lacks something: a package, a device, disk space. Exit code 5."""

    exit_code = 5


class BrokenPromise(FoldfitError):
    """A run used more memory than its plan promised. Exit code 6."""

    exit_code = 6
