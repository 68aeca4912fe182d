"""The study's tables: every row of its Experiment section, with its figures, as a problem and a policy of ours.

Its policies by name: PASSingle with `small` or `large` (training on one GPU), PASExtraSingle (extra MSA: slices recomputed one
by one, our `chunk`), PASSingleInference (`direct` is our `none`, `chunk`); PASDAP and PASDAPInference are the same policies over
GPUs that share the sample ("axial", "axial + chunk").
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from foldfit.bench.case import Case
from foldfit.problem import Launch, Mode, Precision, Problem, Stack


@dataclass(frozen=True)
class Row:
    """One line of the study. Its figures: MB (2^20 bytes) and ms on a V100; None where it ran out of memory or gave none."""

    part: str
    stack: str
    n_seq: int
    n_res: int
    blocks: int
    mode: Mode
    precision: Precision
    gpus: int
    policy: str
    peak: float | None
    activation: float | None
    ms: float | None

    @property
    def key(self) -> str:
        return f"{self.part} {self.n_seq} {self.n_res} {self.gpus} {self.policy}"


def training(n_seq: int, n_res: int, *figures: tuple[int, str, float | None, float | None, float | None]) -> list[Row]:
    return [Row("Evoformer training", "evoformer", n_seq, n_res, 48, "train", "fp16", *f) for f in figures]


STUDY = [
    *training(
        128, 256, (1, "small", 8119, 7462, 3656.61), (1, "large", 4414, 2070, 3635.38), (2, "small", 4351, 4014, 2539.56),
        (2, "large", 2531, 1318, 2506.10),
    ),
    *training(
        512, 256, (1, "small", 18952, 14471, 7949.96), (1, "large", 10729, 4423, 7914.68), (2, "small", 9839, 7567, 4839.22),
        (2, "large", 5744, 2543, 4793.78),
    ),
    *training(
        512, 384, (1, "small", None, None, None), (1, "large", 17810, 7104, 17063.41), (2, "small", 16230, 12847, 9659.66),
        (2, "large", 9416, 3870, 9629.48),
    ),
    Row("extra MSA training", "extra_msa", 1024, 256, 4, "train", "fp16", 1, "chunk", 3236, 1166, 2306.0),
    Row("extra MSA training", "extra_msa", 1024, 384, 4, "train", "fp16", 1, "chunk", 6976, 1805, 3749.43),
    Row("extra MSA training", "extra_msa", 5120, 384, 4, "train", "fp16", 1, "chunk", 16168, 8210, 58393.83),
    *(
        Row("inference", "evoformer", 128, 2048, 48, "infer", "fp32", gpus, policy, peak, None, ms)
        for gpus, policy, peak, ms in (
            (1, "none", None, None), (1, "chunk", 23374.0, 339742.02), (2, "none", None, None), (2, "chunk", 13006.0, 192577.34),
            (4, "none", None, None), (4, "chunk", 9358.0, 101993.0),
        )
    ),
]  # fmt: skip
"""In the study's order."""

GPUS = sorted({row.gpus for row in STUDY})

Scale = Literal["full", "tiny"]
SHRINK = {"n_seq": 16, "n_res": 16, "blocks": 12}
"""What `tiny` divides the sizes by: the same table in seconds on a CPU."""


def with_auto(rows: list[Row]) -> list[Row]:
    """After the rows of each experiment on so many GPUs, ours."""
    out: list[Row] = []
    for i, row in enumerate(rows):
        out.append(row)
        after = rows[i + 1] if i + 1 < len(rows) else None
        if not after or (after.part, after.n_seq, after.n_res, after.gpus) != (row.part, row.n_seq, row.n_res, row.gpus):
            out.append(replace(row, policy="auto", peak=None, activation=None, ms=None))
    return out


def problem_of(row: Row, scale: Scale, device: str, memory: int) -> Problem:
    """Ours trains as a CUDA graph, the study's policies kernel by kernel, as they did."""
    tiny = scale == "tiny"
    device_type: Literal["cpu", "cuda"] = "cpu" if device == "cpu" else "cuda"
    n_seq, n_res = (max(2, row.n_seq // SHRINK["n_seq"]), max(2, row.n_res // SHRINK["n_res"])) if tiny else (row.n_seq, row.n_res)
    blocks = max(1, row.blocks // SHRINK["blocks"]) if tiny else row.blocks
    precision: Precision = "fp32" if device_type == "cpu" else row.precision
    launch: Launch = "graph" if (row.policy, row.mode, device_type) == ("auto", "train", "cuda") else "eager"
    return Problem(
        stacks=(Stack(row.stack, blocks, n_seq),), n_res=n_res, mode=row.mode, precision=precision,
        parameters="fp32" if precision == "fp32" else "fp16", dropout=row.mode == "train", memory=memory, device=device,
        device_type=device_type, world=row.gpus, axial=row.gpus, launch=launch,
    )  # fmt: skip


def cases(scale: Scale, device: str, limits: dict[str, int]) -> Iterator[Case]:
    """The study's policies at the largest limit, ours at each. `limits`: bytes by name, which is part of a row's key."""
    rising = sorted(limits, key=lambda name: limits[name])
    for row in with_auto(STUDY):
        for name in rising if row.policy == "auto" else rising[-1:]:
            yield Case(f"{row.key} @ {name}", problem_of(row, scale, device, limits[name]), row.policy)


def row_of(key: str) -> tuple[int, Row] | None:
    """The study's row behind a case's key, and its place in the study."""
    return next(((i, row) for i, row in enumerate(with_auto(STUDY)) if row.key == key.partition(" @ ")[0]), None)
