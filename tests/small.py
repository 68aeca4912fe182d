"""Small trunks that every part is tested on, and plans for them made by hand."""

from collections.abc import Iterable

import torch

from foldfit._version import __version__
from foldfit.plans import Choice, Plan, Promise
from foldfit.problem import Problem, Stack
from foldfit.runtime.trunk import Trunk

WIDTHS = {
    "evoformer": dict(c_m=48, c_z=32, msa_heads=4, msa_dim=16, pair_heads=2, pair_dim=16, c_hidden_opm=8, c_hidden_mul=40),
    "extra_msa": dict(c_e=24, c_z=32, msa_heads=3, msa_dim=8, pair_heads=2, pair_dim=16, c_hidden_opm=8, c_hidden_mul=40),
    "pairformer": dict(c_s=48, c_z=32, single_heads=4, single_dim=12, pair_heads=2, pair_dim=16, c_hidden_mul=40),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def stack(name: str, blocks: int = 1, rows: int = 0) -> Stack:
    return Stack(name, blocks, rows, WIDTHS[name])


def trunk(*stacks: Stack) -> Trunk:
    return Trunk(*((s.name, s.blocks, s.widths) for s in stacks))


def unlimited(schedule: Iterable[str], choices: dict[str, tuple[Choice, ...]], **problem) -> Plan:
    """A plan that promises nothing, for tests of what it computes."""
    return Plan(
        version=__version__,
        problem=Problem(memory=2**62, **problem),
        policy="test",
        solver="none",
        promised=Promise(2**62, 0.0),
        bound=None,
        costs="modelled",
        resident={},
        choices=choices,
        schedule=tuple(schedule),
    ).signed()


def nested(blocks: int, run: str = "r", record: str = "b") -> list[str]:
    """Recompute within recompute: halves, restarted from their first block's input."""

    def back(first: int, stop: int) -> list[str]:
        if stop - first == 1:
            return [f"record {first} {record}", f"backward {first}"]
        middle = (first + stop) // 2
        steps = [f"check {first}", *(f"run {i} {run}" for i in range(first, middle))]
        return [*steps, *back(middle, stop), f"load {first}", f"free {first}", *back(first, middle)]

    steps = back(0, blocks)
    at = next(i for i, step in enumerate(steps) if step.startswith("backward"))
    return [*steps[:at], "end", *steps[at:]]


def large(blocks: int, run: str = "r", record: str = "b") -> list[str]:
    """Every block recomputed from its input."""
    forward = [step for i in range(blocks) for step in (f"check {i}", f"run {i} {run}")]
    back = [step for i in reversed(range(blocks)) for step in (f"load {i}", f"free {i}", f"record {i} {record}", f"backward {i}")]
    return [*forward, "end", *back]


def keep(blocks: int, record: str = "b") -> list[str]:
    return [*(f"record {i} {record}" for i in range(blocks)), "end", *(f"backward {i}" for i in reversed(range(blocks)))]
