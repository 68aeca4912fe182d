"""The general bench: problems by sizes and limits, times policies, solvers and sets of kernels, as cases."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import msgspec

from foldfit.bench.case import Case
from foldfit.errors import BadInput
from foldfit.problem import Problem, Stack


@dataclass(frozen=True)
class Sweep:
    """What is crossed with what. `limits`: bytes by the name they were given; `kernels`: sets of allowed ones, () for all."""

    limits: dict[str, int]
    policies: tuple[str, ...] = ("auto",)
    solvers: tuple[str, ...] = ("chain",)
    kernels: tuple[tuple[str, ...], ...] = ((),)

    def cases(self, problems: list[Problem]) -> Iterator[Case]:
        """Each once; a solver makes a difference to `auto` in training alone."""
        for problem, kernels, limit, policy in product(problems, self.kernels, self.limits, self.policies):
            for solver in self.solvers if policy == "auto" and problem.mode == "train" else self.solvers[:1]:
                given = msgspec.structs.replace(problem, memory=self.limits[limit])
                yield Case(key(problem, limit, policy, solver, kernels), given, policy, solver, kernels)


def key(problem: Problem, limit: str, policy: str, solver: str, kernels: tuple[str, ...]) -> str:
    """For people, with a digest of what it does not say. A limit counts by its name: `auto` is another on every machine."""
    stacks = "+".join(f"{s.blocks}x{s.name}" + (f" {s.rows}" if s.rows else "") for s in problem.stacks)
    rest = msgspec.json.encode(msgspec.structs.replace(problem, memory=1))
    digest = hashlib.sha256(rest).hexdigest()[:6]
    by = f"{policy}/{solver}" if policy == "auto" and problem.mode == "train" else policy
    return f"{stacks} {problem.n_res} {problem.mode} {problem.precision} {by} {','.join(kernels) or 'all'} {limit} {digest}"


def sized(problem: Problem, sizes: str) -> list[Problem]:
    """The problem at each of `128x256,512x384` (n_seq x n_res; n_res alone where there is no MSA). Raises BadInput."""
    out = []
    for text in sizes.split(","):
        parts = text.strip().split("x")
        rows = [s for s in problem.stacks if s.rows]
        if not all(re.fullmatch("[0-9]+", p) for p in parts) or len(parts) != (2 if rows else 1):
            raise BadInput(f"--sizes {text}: expected {'n_seq x n_res, as 128x256' if rows else 'n_res, as 256'}")
        stacks = tuple(Stack(s.name, s.blocks, int(parts[0]) if s.rows else 0, s.widths) for s in problem.stacks)
        out.append(msgspec.structs.replace(problem, stacks=stacks, n_res=int(parts[-1])))
    return out


def read_problem(path: Path) -> Problem:
    """Of a problem file, or of a plan's. Raises BadInput."""
    try:
        found = msgspec.json.decode(path.read_bytes())
        return msgspec.convert(found["problem"] if isinstance(found, dict) and "problem" in found else found, Problem)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path} has no problem of foldfit: {error}") from None
