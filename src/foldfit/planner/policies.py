"""Policies: plain functions from the option table to choices. The study's by name, and users' own.

A policy returns one `BlockChoice` a stack (for all its blocks) or one a block; it is checked, promised, run and compared
like any other plan. `auto` is not among them: it is the solver's.
"""

import importlib
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from foldfit.errors import BadInput, FoldfitError
from foldfit.planner.option import Option
from foldfit.planner.options import OptionTable, StackOptions, SubModuleOptions

CHUNK_ROWS = 4
"""Rows of a slice of the policy `chunk`."""


@dataclass(frozen=True)
class BlockChoice:
    """One option for each sub-module; `recompute`: keep only the block's input and run the block again in backward."""

    options: tuple[Option, ...]
    recompute: bool = False


Policy = Callable[[OptionTable], list[BlockChoice]]

POLICIES: dict[str, Policy] = {}


def policy(function: Policy) -> Policy:
    """Registers a policy by its function's name: `@foldfit.policy`. Raises BadInput for a name that is taken."""
    if function.__name__ in POLICIES or function.__name__ == "auto":
        raise BadInput(f"there is a policy {function.__name__!r} already: give yours another name")
    POLICIES[function.__name__] = function
    return function


def find_option(sub: SubModuleOptions, *, rows: int | None = None, recompute: bool = False, kernel: str = "reference") -> Option:
    """The option of that kernel with at most `rows` rows a slice (None: all) that keeps or recomputes, with what is shared whole."""
    fitting = [
        o
        for o in sub.options
        if (o.choice.kernel, o.choice.recompute, o.choice.host, o.choice.piece_rows, o.choice.channels) == (kernel, recompute, "", 0, False)
        and (rows is None or o.choice.rows <= rows)
    ]
    if not fitting:
        raise BadInput(f"{sub.spec.name} has no option of kernel {kernel!r} with at most {rows} rows a slice")
    return max(fitting, key=lambda o: o.choice.rows)


def each(stack: StackOptions, **wanted: object) -> tuple[Option, ...]:
    return tuple(find_option(sub, **wanted) for sub in stack.sub_modules)  # type: ignore[arg-type]


@policy
def none(table: OptionTable) -> list[BlockChoice]:
    """Everything whole, everything kept."""
    return [BlockChoice(each(stack)) for stack in table.stacks]


@policy
def small(table: OptionTable) -> list[BlockChoice]:
    """The study's `small`: each sub-module recomputed from its own input."""
    return [BlockChoice(each(stack, recompute=table.problem.mode == "train")) for stack in table.stacks]


@policy
def large(table: OptionTable) -> list[BlockChoice]:
    """The study's `large`: each block recomputed from its input."""
    return [BlockChoice(each(stack), recompute=table.problem.mode == "train") for stack in table.stacks]


@policy
def chunk(table: OptionTable) -> list[BlockChoice]:
    """The study's `chunk`: fixed slices, recomputed one by one in training."""
    return [BlockChoice(each(stack, rows=CHUNK_ROWS, recompute=table.problem.mode == "train")) for stack in table.stacks]


def find_policy(name: str) -> Policy:
    """By name, or `module:function` from the current folder or an installed module. Raises BadInput."""
    if name in POLICIES:
        return POLICIES[name]
    module, _, function = str(name).partition(":")
    if not function:
        raise BadInput(f"unknown policy {name!r}: expected auto, {', '.join(POLICIES)}, or module:function")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever the user's module does
        raise BadInput(f"policy {name!r}: {said(error)}; expected an importable module and a function in it") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not callable(found):
        raise BadInput(f"policy {name!r} is no function but {found!r:.40}")
    return found


def ask(name: str, table: OptionTable) -> list[BlockChoice]:
    """What the policy of that name chooses, one a block. Raises BadInput where it fails or chooses what the table has not."""
    policy = find_policy(name)
    try:
        chosen = policy(table)
    except FoldfitError:
        raise
    except Exception as error:  # whatever the user's function does
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise BadInput(f"policy {name!r} failed: {said(error)}, in {Path(last.filename).name}, line {last.lineno}") from error
    return block_choices(table, chosen)


def said(error: Exception) -> str:
    """In one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def block_choices(table: OptionTable, chosen: object) -> list[BlockChoice]:
    """A policy's answer, one a block. Raises BadInput for one that does not fit the table."""
    blocks = [stack for stack in table.stacks for _ in range(stack.blocks)]
    if not isinstance(chosen, list) or not all(isinstance(c, BlockChoice) for c in chosen):
        raise BadInput("a policy returns a list of foldfit.BlockChoice")
    if len(chosen) == len(table.stacks) != len(blocks):
        chosen = [c for c, stack in zip(chosen, table.stacks, strict=True) for _ in range(stack.blocks)]
    if len(chosen) != len(blocks):
        raise BadInput(f"the policy chose for {len(chosen)} blocks: expected {len(table.stacks)} stacks or {len(blocks)} blocks")
    for i, (choice, stack) in enumerate(zip(chosen, blocks, strict=True)):
        if not isinstance(choice.options, tuple) or not all(isinstance(option, Option) for option in choice.options):
            raise BadInput(f"block {i}: expected a BlockChoice of a tuple of the table's options, got {choice.options!r:.60}")
        if len(choice.options) != len(stack.sub_modules):
            raise BadInput(f"block {i}: the policy chose {len(choice.options)} options, the block has {len(stack.sub_modules)} sub-modules")
        for option, sub in zip(choice.options, stack.sub_modules, strict=True):
            if option not in sub.options:
                raise BadInput(f"block {i}: the option {option.choice} is not one of {sub.spec.name}'s: choose from the table")
            if table.problem.mode == "train" and not option.recordable:
                raise BadInput(f"block {i}: kernel {option.choice.kernel} of {sub.spec.name} has no backward on this device")
    return chosen
