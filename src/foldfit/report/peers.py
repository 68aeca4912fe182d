"""Other implementations, measured beside foldfit by `benchmarks/side_by_side.py`, on the problem of a run."""

import os
from pathlib import Path
from typing import Any

import msgspec

from foldfit.errors import BadInput
from foldfit.plans import Plan
from foldfit.report.run import Candidate


class Row(msgspec.Struct):
    """Of its rows, what stacks have: `blocks` Evoformers; no `ms` where the peer was not there or could not."""

    who: str
    n_seq: int = 0
    n_res: int = 0
    blocks: int = 0
    precision: str = ""
    mode: str = ""
    ms: float = 0.0
    peak: int = 0


class Measurements(msgspec.Struct):
    device: str
    rows: list[Row]


def read_peers(path: "str | os.PathLike[str]") -> Measurements:
    """Raises BadInput for anything else."""
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=Measurements)
    except OSError as error:
        raise BadInput(f"cannot read {os.fspath(path)}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{os.fspath(path)} has no measured peers: {error}; benchmarks/side_by_side.py --json makes them") from None


def peers_of(plan: Plan, measured: dict[str, Any], found: Measurements) -> list[Candidate]:
    """Those that ran the same Evoformers, on the same card."""
    p = plan.problem
    same = (p.stacks[0].blocks, p.stacks[0].rows, p.n_res, p.precision, p.mode)
    if len(p.stacks) > 1 or p.stacks[0].name != "evoformer" or (p.batch, p.world) != (1, 1) or measured["device"] != found.device:
        return []
    rows = [r for r in found.rows if r.ms and r.peak and r.who != "foldfit" and (r.blocks, r.n_seq, r.n_res, r.precision, r.mode) == same]
    return [Candidate(r.who, r.peak, r.ms / 1e3) for r in rows]
