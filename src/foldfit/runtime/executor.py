"""Runs a plan's schedule over the blocks of a trunk: one executor for inference and training."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from foldfit.model import SubModule
from foldfit.plans import Choice, Plan
from foldfit.problem import Problem
from foldfit.runtime import apply
from foldfit.runtime.apply import Call, Kept, State
from foldfit.runtime.dropout import drop_mask
from foldfit.runtime.offload import Home, Host
from foldfit.runtime.parameters import Gradients
from foldfit.runtime.ranks import ALONE, Begun, Ranks, layout_of
from foldfit.runtime.windows import Away
from foldfit.stacks import SubModuleSpec

Watch = Callable[[str, str], None]
"""Told (step, sub-module) after each sub-module that ran."""


@dataclass
class Record:
    """A block that ran for its backward: per sub-module, the versions of the state it read and what it kept."""

    choices: tuple[Choice, ...]
    calls: list[tuple[State, Kept | None]]


class Executor:
    """One run of a plan over `blocks` of sub-modules. `state` is changed in place only where the schedule owns it. Over several
    ranks it is this rank's part, sharded over axis 0 between blocks; `masks` are whole."""

    def __init__(
        self,
        blocks: list[list[SubModule]],
        plan: Plan,
        masks: State,
        seed: torch.Tensor | None,
        watch: Watch | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.blocks, self.plan, self.masks, self.seed, self.ranks = blocks, plan, masks, seed, ranks
        self.watch = watch or (lambda step, sub_module: None)
        self.state: State | None = None
        self.owned: set[str] = set()
        """The tensors of the state that nothing else holds, so that a run may write into them."""
        self.checkpoints: dict[int, State] = {}
        self.device = next(iter(masks.values())).device
        self.host = Host(plan.digest, ranks.waits)
        self.home = Home({}, self.device)
        self.records: dict[int, Record] = {}
        self.grads: State = {}
        self.gradients: Gradients | None = None
        self.at: dict[str, int] = {}
        """The axis that each tensor at hand is sharded over, where it is not 0."""
        self.parts: dict[tuple[str, int], torch.Tensor] = {}
        """Of masks, by tensor and axis."""
        self.under_way: dict[str, tuple[int, Begun]] = {}
        """Relays beside the sub-module at hand: to which axis."""
        self.sums: list[Begun] = []
        """Sums of gradients over ranks that are under way."""
        self.own = [{name for sub in block for name, _ in (*sub.spec.reads, sub.spec.writes)} for block in blocks]
        self.needed: list[set[str]] = []
        for own in reversed(self.own):
            self.needed.insert(0, own | (self.needed[0] if self.needed else set()))
        self.done: list[str] = []

    def forward(self, state: State) -> State:
        """The steps up to `end`. Returns the final state."""
        self.state = dict(state)
        self.owned = set(self.state) if self.plan.problem.inputs == "overwritten" else set()
        self.home = self.host.receive({name: state[name] for name in self.plan.hosted}, self.device)
        with numerics(self.plan.problem), contextlib.closing(self.home):
            for step in self.plan.schedule[: self.end]:
                self.do(step)
            self.home.place(self.state, self.state.keys())
        out, self.state = self.state, None
        assert out is not None
        return out

    def backward(self, grads: State, parameters: list[nn.Parameter]) -> tuple[State, Gradients]:
        """The steps after `end`, from the gradients of the final state (which it overwrites) to those of the first."""
        self.grads, self.gradients = grads, Gradients(parameters)
        with numerics(self.plan.problem), contextlib.closing(self.host):
            for step in self.plan.schedule[self.end + 1 :]:
                self.do(step)
            for sum_ in self.sums:
                sum_.wait()
        out, gradients, self.grads, self.gradients = self.grads, self.gradients, {}, None
        return out, gradients

    def held(self) -> list[torch.Tensor]:
        """Versions of the state that backward will read: the caller may have some of them, as inputs or outputs."""
        states = [*self.checkpoints.values(), *(state for record in self.records.values() for state, _ in record.calls)]
        return [x for state in states for x in state.values()]

    @property
    def end(self) -> int:
        return self.plan.schedule.index("end")

    def enter(self, block: int) -> State:
        """The state without the tensors that no block from this one on has: an MSA ends with its stack."""
        assert self.state is not None
        for name in set(self.state) - self.needed[block]:
            del self.state[name]
        return self.state

    def do(self, step: str) -> None:
        name, block, *choice = step.split()
        getattr(self, f"step_{name}")(int(block), *choice)
        self.done.append(step)

    def step_check(self, block: int) -> None:
        self.checkpoints[block] = dict(self.enter(block))
        self.owned = set()

    def step_load(self, block: int) -> None:
        self.host.wait(block)
        self.state = dict(self.checkpoints[block])
        self.owned = set()

    def step_free(self, block: int) -> None:
        self.host.free(block)
        del self.checkpoints[block]

    def step_offload(self, block: int) -> None:
        self.host.offload(block, {name: x for name, x in self.checkpoints[block].items() if name in self.own[block]})

    def step_drop(self, block: int) -> None:
        self.host.wait(block)
        for name in self.own[block]:
            del self.checkpoints[block][name]

    def step_fetch(self, block: int) -> None:
        self.checkpoints[block] |= self.host.fetch(block)

    def step_run(self, block: int, choice: str) -> None:
        state = self.enter(block)
        written = {sub.spec.writes[0] for sub in self.blocks[block]}
        for name in sorted(written - self.owned):
            state[name] = state[name].clone()
        self.owned |= written
        choices = self.plan.choices[choice]
        for i, c in enumerate(choices):
            self.lay(state, c.layout, self.blocks[block][i])
            self.home.place(state, {*c.host.split()} | state.keys() - self.own[block])
            call = self.call(block, i, c, state, c.layout)
            apply.forward(call, state, state[call.module.spec.writes[0]])
            self.land(state)
            if i + 1 == len(choices):
                self.lay(state, "")
            self.watch(f"run {block}", call.module.spec.name)

    def step_record(self, block: int, choice: str) -> None:
        state = self.enter(block)
        record = Record(self.plan.choices[choice], [])
        for i, c in enumerate(record.choices):
            self.lay(state, c.layout, self.blocks[block][i])
            call = self.call(block, i, c, state, c.layout)
            spec = call.module.spec
            inputs = {name: state[name] for name, _ in (*spec.reads, *((spec.shares,) if spec.shares else ()))}
            version, kept = apply.record(call, state)
            record.calls.append((inputs, kept))
            state[spec.writes[0]] = version
            del version, inputs, kept
            self.land(state)
            if i + 1 == len(record.choices):
                self.lay(state, "")
            self.watch(f"record {block}", spec.name)
        self.records[block] = record
        self.owned = set()

    def step_backward(self, block: int) -> None:
        self.state = None
        assert self.gradients is not None
        record = self.records.pop(block)
        for name in {name for sub in self.blocks[block] for name, _ in sub.spec.reads} - set(self.grads):
            like = next(v[name] for v, _ in record.calls if name in v)
            self.grads[name] = like.new_zeros((*self.ranks.narrow(self.masks[name], 1).shape, like.shape[-1]))
        for i, c in reversed(list(enumerate(record.choices))):
            self.lay(self.grads, c.layout)
            call = self.call(block, i, c, self.grads, record.choices[i - 1].layout if i else "")
            inputs, kept = record.calls.pop()
            apply.backward(call, inputs, kept, self.grads, self.gradients)
            del inputs, kept
            self.land(self.grads)
            if i == 0:
                self.lay(self.grads, "")
            self.watch(f"backward {block}", call.module.spec.name)
        self.sums += self.ranks.begin_sum(self.gradients.of(self.blocks[block]))

    def lay(self, tensors: State, layout: str, module: SubModule | None = None) -> None:
        """Relays what is sharded over another axis, of what the sub-module touches or, without one, everything; an empty layout is
        home, axis 0, where alone everything always is."""
        for name, new in self.moving(tensors, layout):
            if module is None or name in module.spec.touches:
                tensors[name] = self.ranks.relay(tensors[name], 1 - new, new, self.masks[name].shape[1:])
                self.at[name] = new

    def begin(self, tensors: State, layout: str, module: SubModule) -> None:
        """Begins to relay what the sub-module does not touch, once: until `land` that goes on beside it."""
        for name, new in self.moving(tensors, layout):
            if name not in module.spec.touches and name not in self.under_way:
                self.under_way[name] = new, self.ranks.begin_relay(tensors[name], 1 - new, new, self.masks[name].shape[1:])

    def moving(self, tensors: State, layout: str) -> list[tuple[str, int]]:
        """What is sharded over another axis, and over which it is to be."""
        wanted = layout_of(layout)
        return [(name, wanted.get(name, 0)) for name in tensors if self.at.get(name, 0) != wanted.get(name, 0)]

    def land(self, tensors: State) -> None:
        """Waits for the relays under way."""
        for name, (new, begun) in self.under_way.items():
            (tensors[name],) = begun.wait()
            self.at[name] = new
        self.under_way.clear()

    def part(self, name: str, axis: int) -> torch.Tensor:
        """This rank's of the mask of a tensor that is sharded over `axis`."""
        if (name, axis) not in self.parts:
            self.parts[name, axis] = self.ranks.narrow(self.masks[name], 1 + axis)
        return self.parts[name, axis]

    def call(self, block: int, i: int, choice: Choice, tensors: State, layout: str) -> Call:
        """Its i-th sub-module, ready to run, beside which the other `tensors` are relaid. Dropout depends on the logical position only,
        so neither plan nor ranks change it."""
        module = self.blocks[block][i]
        spec = module.spec
        drawn = self.seed is not None and spec.dropout > 0
        masks = {name: self.part(name, self.at.get(name, 0)) for name in self.masks}
        total = self.masks[spec.shares[0]].shape[1 + spec.shares[1]] if spec.shares else 0
        away = Away(frozenset(choice.host.split()), self.device, self.host.waits)
        draw = partial(self.draw, spec, (block, i)) if drawn else None
        return Call(module, choice, masks, None, self.ranks, total, away, draw, partial(self.begin, tensors, layout, module))

    def draw(self, spec: SubModuleSpec, position: tuple[int, int], sample: int) -> torch.Tensor:
        """The dropout mask of one sample, in this rank's rows."""
        (tensor, axis), seed = spec.writes, self.seed
        assert seed is not None
        shape = self.masks[tensor].shape[1:]
        drop = drop_mask(spec, (shape[axis], shape[1 - axis]), seed, (*position, sample), self.masks[tensor])
        return drop if len(drop) == 1 else self.ranks.narrow(drop, 0)


@contextlib.contextmanager
def numerics(problem: Problem) -> Iterator[None]:
    """The plan's precision, whatever autocast is on around the model."""
    with torch.autocast(problem.device_type, enabled=False), matmul_precision(problem.precision):
        yield


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """tf32 for that precision class alone, IEEE fp32 for every other, and afterwards as it was."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
