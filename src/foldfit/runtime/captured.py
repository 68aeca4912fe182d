"""A plan's steps as CUDA graphs: launched at once, not one by one from Python, which for small sub-modules takes longer than
their work. The graphs own the memory that the plan promises; what goes in and comes out lies in tensors that stay. Collectives
are within (runtime/graphs.py)."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import nn

from foldfit.errors import BadInput
from foldfit.plans import Plan
from foldfit.runtime.apply import State
from foldfit.runtime.executor import Executor, Watch
from foldfit.runtime.graphs import CudaGraphs, Part
from foldfit.runtime.parameters import Gradients

if TYPE_CHECKING:
    from foldfit.runtime.trunk import Trunk

CAPTURED: "WeakKeyDictionary[Trunk, Captured]" = WeakKeyDictionary()
"""The last plan captured of every trunk."""


class Captured:
    """Two parts, up to `end` and after it, of one plan over the parameters where they are now."""

    def __init__(
        self, trunk: "Trunk", plan: Plan, state: State, masks: State, watch: Watch | None = None, graphs: CudaGraphs | None = None
    ) -> None:
        self.plan, self.ranks, self.last = plan, trunk.ranks, list(trunk.specs[-1].state)
        self.parameters = [p for p in trunk.parameters() if p.requires_grad]
        self.addresses = [p.data_ptr() for p in trunk.parameters()]
        self.state = {name: x.detach().clone() for name, x in state.items()}
        self.masks = {name: x.clone() for name, x in masks.items()}
        device = next(iter(state.values())).device
        self.seed = torch.zeros((), dtype=torch.int64, device=device)
        self.train, self.turn = plan.problem.mode == "train", 0
        self.drawn = plan.problem.dropout and trunk.training
        self.graphs = graphs or CudaGraphs(device)
        blocks, seed = trunk.sub_modules(), self.seed if self.drawn else None
        with self.graphs.rehearsing():  # compiles kernels, makes handles
            self.work(Executor(blocks, plan, self.masks, seed, watch, self.ranks), nullcontext(), nullcontext())
            del self.out
            if self.train:
                del self.grads, self.d_state, self.gradients
        self.forward_part, self.backward_part = Part(self.ranks, self.graphs), Part(self.ranks, self.graphs)
        with self.graphs.capturing():
            self.work(Executor(blocks, plan, self.masks, seed, ranks=self.ranks), self.forward_part, self.backward_part)

    @property
    def held(self) -> int:
        """Bytes that replays use beyond what is allocated meanwhile."""
        return self.graphs.held

    def work(self, executor: Executor, forward: AbstractContextManager, backward: AbstractContextManager) -> None:
        """Both halves of the schedule, each in its context."""
        with torch.no_grad(), forward:
            out = executor.forward(self.state)
        self.out = {name: out[name] for name in self.last}
        del out
        if self.train:
            self.grads = {name: torch.zeros_like(x) for name, x in self.out.items()}
            with torch.no_grad(), backward:
                self.d_state, self.gradients = executor.backward(dict(self.grads), self.parameters)

    def replay(self, part: Part) -> None:
        """With a collective behind it that the group's timeout is over, which it is not over those within a graph: a rank that never comes
        ends the run."""
        part.replay()
        self.ranks.same(self.seed)

    def fits(self, trunk: "Trunk", plan: Plan) -> bool:
        """Whether these graphs are of this plan, mode and ranks, and the parameters still where they were."""
        same = self.plan.digest == plan.digest and self.drawn == (plan.problem.dropout and trunk.training)
        return same and self.ranks is trunk.ranks and self.addresses == [p.data_ptr() for p in trunk.parameters()]


class Replay:
    """One run of a captured plan, in the executor's place. Results are copied out of the graphs' tensors."""

    def __init__(self, graphs: Captured) -> None:
        self.graphs, self.turn = graphs, 0

    def forward(self, state: State) -> State:
        g = self.graphs
        for name, x in state.items():
            g.state[name].copy_(x)
        if g.drawn:
            g.ranks.same(g.seed.random_(2**62))
        g.replay(g.forward_part)
        g.turn += 1
        self.turn = g.turn
        return {name: x.clone() for name, x in g.out.items()}

    def held(self) -> list[torch.Tensor]:
        """Nothing that a caller has."""
        return []

    def backward(self, grads: State, parameters: list[nn.Parameter]) -> tuple[State, Gradients]:
        """Raises BadInput where the graphs have run forward again since, over what this run had kept for its backward."""
        g = self.graphs
        if self.turn != g.turn:
            raise BadInput("a captured plan ran forward again before this backward: run backward first, or plan with launch='eager'")
        for name, x in grads.items():
            g.grads[name].copy_(x)
        g.replay(g.backward_part)
        return {name: x.clone() for name, x in g.d_state.items()}, g.gradients.copy(g.parameters)


def captured(trunk: "Trunk", plan: Plan, state: State, masks: State, watch: Watch | None = None) -> Replay:
    """A run of this plan's graphs, captured now if they were not."""
    found = CAPTURED.get(trunk)
    if found is None or not found.fits(trunk, plan):
        CAPTURED.pop(trunk, None)
        del found
        CAPTURED[trunk] = found = Captured(trunk, plan, state, masks, watch)
    for name, mask in masks.items():
        found.masks[name].copy_(mask)
    return Replay(found)
