"""`foldfit profile --gpus N`, in each of N processes that torchrun started."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldfit.cost.devices import Device
    from foldfit.problem import Problem


def collectives(problem: "Problem", device: "Device", path: Path, as_json: bool) -> None:
    """Measures them between the ranks of this run; the first one adds them to the database."""
    import datetime
    import json

    import msgspec
    import torch

    from foldfit.profile.collectives import measure_collectives
    from foldfit.profile.here import costs_here
    from foldfit.runtime.launch import joined

    with joined(problem, "profile", f"--gpus {problem.world}") as ranks:
        with ranks.together():
            costs = costs_here(path, device) if ranks.is_first else None
        found = list(measure_collectives(ranks, torch.device(problem.device_type), problem.memory))
        with ranks.together():
            if costs:
                known = {(c.name, c.ranks, c.size): c for c in (*costs.collectives, *found)}
                date = datetime.date.today().isoformat()
                msgspec.structs.replace(costs, collectives=tuple(known[key] for key in sorted(known)), date=date).save(path)
        if ranks.is_first:
            rows = [msgspec.to_builtins(c) for c in found]
            print(json.dumps({"costs": str(path), "ranks": ranks.size, "collectives": rows}) if as_json else table(rows, path))


def table(found: list, path: Path) -> str:
    from foldfit.units import format_bytes, format_seconds

    lines = [f"{'collective':16}{'size':>12}{'time':>12}{'GB/s':>9}"]
    for c in found:
        speed = c["size"] / c["seconds"] / 1e9
        lines.append(f"{c['name']:16}{format_bytes(c['size']):>12}{format_seconds(c['seconds']):>12}{speed:>9.1f}")
    return "\n".join([*lines, f"written to {path}"])
