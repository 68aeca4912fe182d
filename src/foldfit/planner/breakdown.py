"""What the bytes of a schedule's moments are: by tensor, and by the sub-module that keeps them for its backward."""

from collections.abc import Mapping, Sequence

from foldfit.planner.simulate import Simulator, Timeline
from foldfit.planner.table import Chain

STATE, INPUTS, GRADIENTS = "state", "block inputs kept", "gradients of the state"
PARAMETERS, PARAMETER_GRADIENTS, OTHER = "parameters", "parameter gradients", "inputs, outputs, workspaces"
Parts = dict[str, int]


class Breakdown(Simulator):
    """A simulator that writes down, for every moment, what is alive. `writes`: of each stage, the tensor that each sub-module
    writes; `resident`, `backward`: bytes that stay, by name, as in cost/resident.py."""

    def __init__(
        self, chain: Chain, choices: Mapping[str, Sequence[object]], writes: Mapping[str, Sequence[str]],
        resident: Mapping[str, int], backward: Mapping[str, int],
    ) -> None:  # fmt: skip
        super().__init__(chain, choices)
        self.writes, self.resident, self.backward = writes, resident, backward
        self.parts: list[Parts] = []

    def alive(self) -> int:
        kept = {id(b): b.size for b in self.checkpoints.values() if b} | {id(s): s.size for s, _, _ in self.records.values()}
        kept.pop(id(self.outputs), None)
        stays = dict(self.resident) | (dict(self.backward) if self.backward_phase else {})
        parts = {PARAMETERS: stays.pop("parameters", 0), PARAMETER_GRADIENTS: stays.pop("gradients", 0), OTHER: sum(stays.values())}
        if self.state and id(self.state) not in kept and self.state is not self.outputs:
            parts[STATE] = self.state.size
        if self.visiting:
            parts[STATE] = parts.get(STATE, 0) + self.guests()
        parts[INPUTS] = sum(kept.values())
        for block, (_, versions, chosen) in self.records.items():
            stage = self.stages[block]
            for tensor, size in zip(self.writes[stage.name], versions, strict=False):
                parts[f"versions of {tensor}"] = parts.get(f"versions of {tensor}", 0) + size
            for sub, option in zip(stage.subs, chosen, strict=False):
                parts[kept_by(sub.name)] = parts.get(kept_by(sub.name), 0) + option.saved
        self.parts.append(parts)
        return super().alive()

    def gradient(self, block: int) -> int:
        self.parts[-1][GRADIENTS] = super().gradient(block)
        return self.parts[-1][GRADIENTS]


def kept_by(sub_module: str) -> str:
    return f"kept by {sub_module}"


def breakdown(
    chain: Chain, choices: Mapping[str, Sequence[object]], schedule: Sequence[str], writes: Mapping[str, Sequence[str]],
    resident: Mapping[str, int], backward: Mapping[str, int],
) -> tuple[Timeline, list[Parts]]:  # fmt: skip
    """The timeline of `simulate`, and of each of its moments the bytes alive, by what they are; they add up."""
    simulator = Breakdown(chain, choices, writes, resident, backward)
    for step in schedule:
        simulator.do(step)
    parts = []
    for moment, found in zip(simulator.timeline.moments, simulator.parts, strict=True):
        own = moment.alive - sum(found.values())  # a backward gives its own record up only when it has ended
        parts.append({name: size for name, size in found.items() if size})
        if own:
            parts[-1][kept_by(moment.sub_module)] = parts[-1].get(kept_by(moment.sub_module), 0) + own
    return simulator.timeline, parts
