"""The plan: pure data between the planner and the runtime, and its JSON file."""

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from foldfit.errors import BadInput, MissingEnvironment, NotSupported
from foldfit.problem import Problem

SCHEMA = 6


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one sub-module runs: by which kernel, `rows` and `share_rows` at a time, and whether a recorded run keeps what
    backward needs or drops it and recomputes it, slice by slice. `layout`, over several ranks: the axis that each state tensor
    is sharded over while it runs, "m1 z0"; a block begins and ends with axis 0 everywhere. `host`: the state tensors that are on the
    host while it runs, "m z", and come to the device by its slices; the others are on the device. `piece_rows`, over several ranks: what
    all rows share travels from rank to rank, so many rows of each at a time, once for every slice; 0: it is gathered whole.
    `channels`: neither; ranks exchange what they have of all channels for all of some channels, and back, so that the tensor may be
    sharded over either axis."""

    kernel: str
    rows: int
    share_rows: int = 0
    recompute: bool = False
    layout: str = ""
    host: str = ""
    piece_rows: int = 0
    channels: bool = False


class Promise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An upper bound on allocated bytes, the step and sub-module that set it, and the expected seconds. `host_bytes`: the
    most pinned host memory that it takes, state tensors at home there included; `exposed`: those of the seconds in which the
    computation waits for a copy to it or back, or for other ranks."""

    peak_bytes: int
    seconds: float
    at: str = ""
    host_bytes: int = 0
    exposed: float = 0.0
    seconds_error: float | None = None
    """How far off the seconds may be, relative, by what the measurements that they stand on say of one another; None: unknown."""


class Bound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No persistent nested schedule of the option space takes less than `seconds`; `gap` = promised / bound - 1. With host
    memory: also none whose forward phase moves block inputs there, even if copies took no time; in an inference none that has state
    tensors on the host, whichever and wherever it wants, copies as modelled."""

    seconds: float
    gap: float


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`choices`: a name -> the choice of each sub-module of a block. `schedule`: steps over the blocks of all stacks,
    numbered from 0: `check i` keeps block i's input, `load i` goes back to it, `free i` drops it, `run i NAME` runs block
    i in place, `record i NAME` runs it for its backward, `backward i`, and `end` where forward hands its result over.

    A kept input may wait in host memory: `offload i` begins its copy there, `drop i` waits for that and frees the device's,
    `fetch i` makes room and begins the copy back, which `load i` waits for; `free i` gives up both. Copies go on beside the
    steps that follow them.

    `hosted`: state tensors of an inference whose home is the host: the caller hands them over there, and finds the result in them."""

    schema: int = SCHEMA
    version: str
    problem: Problem
    policy: str
    solver: str
    promised: Promise
    bound: Bound | None
    costs: Literal["modelled", "measured"]
    resident: dict[str, int]
    """Bytes that stay for the whole run, by what they are."""
    choices: dict[str, tuple[Choice, ...]]
    schedule: tuple[str, ...]
    hosted: tuple[str, ...] = ()
    digest: str = ""
    """Of all the rest: an edited plan no longer keeps its promise."""

    def signed(self) -> "Plan":
        return msgspec.structs.replace(self, digest=self.sign())

    def sign(self) -> str:
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, digest=""))).hexdigest()[:16]

    def dumps(self) -> str:
        """The JSON text: one line a step."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1).decode() + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        write_text(path, self.dumps())

    @classmethod
    def loads(cls, text: str | bytes, source: str = "the plan") -> "Plan":
        """Raises BadInput when it is not a plan or was edited, NotSupported for another schema."""
        try:
            head = msgspec.json.decode(text)
            if isinstance(head, dict) and head.get("schema", SCHEMA) != SCHEMA:
                raise NotSupported(f"{source} has plan schema {head['schema']!r}, this foldfit reads {SCHEMA}: plan again")
            plan = msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
            raise BadInput(f"{source} is not a plan of foldfit: {error}") from None
        if plan.digest != plan.sign():
            raise BadInput(f"{source} was changed after it was planned, so its promise no longer holds: plan again, or write a policy")
        return plan

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Plan":
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise BadInput(f"cannot read {os.fspath(path)}: {error.strerror}") from None
        return cls.loads(text, os.fspath(path))

    def __str__(self) -> str:
        from foldfit.plans_text import plan_table

        return plan_table(self)

    def _repr_html_(self) -> str:
        from foldfit.plans_text import plan_html

        return plan_html(self)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Raises as `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name beside `path` to write to, which takes its place at the end: a reader never sees half of it, a full disk loses nothing.

    Raises BadInput where nothing can be written, or the name is a folder's or a device's, MissingEnvironment where the disk is full.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise BadInput(f"cannot write {path}: it is there and no file; give another output")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with writing_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_folder(folder: Path) -> None:
    """Makes it where it is not there. Raises as `replacing` where nothing can be written into it. Ranks may all do so at once, of
    several hosts too: each writes a file of a name that nobody else has."""
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = MissingEnvironment if full else BadInput
        raise what(f"cannot write {path}: {error.strerror}; {'make room, or ' if full else ''}give another output") from None
