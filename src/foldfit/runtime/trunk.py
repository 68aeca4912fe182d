"""The trunks as ordinary nn.Modules: hand them a plan, or none for the default one."""

import contextlib
import os
import warnings
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from foldfit._version import __version__
from foldfit.errors import BadInput
from foldfit.model import SUB_MODULES, SubModule
from foldfit.model.weights import Weights, count_blocks, load_stack, read_npz
from foldfit.plans import Plan
from foldfit.problem import Stack
from foldfit.runtime.apply import State
from foldfit.runtime.captured import Replay, captured
from foldfit.runtime.check import check_inputs, check_plan
from foldfit.runtime.default import UNLIMITED, default_plan
from foldfit.runtime.executor import Executor, Watch
from foldfit.runtime.ranks import ALONE, Ranks, checksum
from foldfit.stacks import StackSpec, check_together, stack_spec

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trunk(nn.Module):
    """Stacks in a row. `stacks`: (name, blocks, widths that differ from the defaults). The state has the tensors of the
    stacks' specs, the result those of the last stack's: `m` [n_seq, n_res, c_m], `e` [n_extra, n_res, c_e], `s` [n_res, c_s],
    `z` [n_res, n_res, c_z]."""

    def __init__(self, *stacks: tuple[str, int, dict[str, int]]) -> None:
        super().__init__()
        for name, n_blocks, _ in stacks:
            if not isinstance(n_blocks, int) or n_blocks < 1:
                raise BadInput(f"{name}: expected at least 1 block, got {n_blocks!r}")
        self.layout = stacks
        self.ranks = ALONE
        self.agreed: set[str] = set()
        """The plans, by digest, that all ranks have agreed on."""
        self.specs: list[StackSpec] = [stack_spec(name, **widths) for name, _, widths in stacks]
        check_together(self.specs)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({sub.name: SUB_MODULES[sub.kind](sub) for sub in spec.sub_modules})
            for spec, (_, n_blocks, _) in zip(self.specs, stacks, strict=True)
            for _ in range(n_blocks)
        )

    def over(self, group: "ProcessGroup | None", world: "ProcessGroup | None" = None) -> Self:
        """Shares each sample among the ranks of `group`, all of which have the same parameters and call this; None: alone again.

        Tensors go in and come out as this rank's rows of axis 0 (`foldfit.shard`, `foldfit.unshard`), masks go in whole, and plans
        are those for that many ranks (`axial`). Gradients of parameters are summed over `group`; with `world`, of which `group` is a
        part, they are also averaged over its samples, so that no DistributedDataParallel is needed around the model.
        """
        self.ranks = ALONE if group is None else Ranks(group, world)
        self.agreed.clear()
        return self

    def load_alphafold(self, source: "str | os.PathLike[str] | Weights") -> "Trunk":
        """Reads AlphaFold's published parameters for every stack. Raises BadInput, naming the keys that are wrong."""
        weights, start = read_npz(source), 0
        for spec, (_, n_blocks, _) in zip(self.specs, self.layout, strict=True):
            load_stack(spec, self.sub_modules()[start : start + n_blocks], weights)
            start += n_blocks
        return self

    def sub_modules(self) -> list[list[SubModule]]:
        """Of each block, in order."""
        return [list(block.values()) for block in self.blocks]  # type: ignore[operator]

    def stacks(self, n_seq: int = 0, n_extra: int = 0) -> tuple[Stack, ...]:
        """As the problem of a plan names them."""
        rows = {"n_seq": n_seq, "n_extra": n_extra or n_seq, "": 0}
        return tuple(
            Stack(name, n_blocks, rows[spec.msa_axis], dict(widths))
            for spec, (name, n_blocks, widths) in zip(self.specs, self.layout, strict=True)
        )

    def run(self, state: State, masks: State, plan: Plan | None = None, watch: Watch | None = None) -> State:
        """The state after all blocks. `state`, `masks`: by tensor name, batch dimensions may lead; a missing mask is all ones.

        Raises BadInput where the plan is for other stacks, sizes, precision or device than these.
        """
        parameters = list(self.parameters())  # thousands, and a walk through all modules
        train = torch.is_grad_enabled() and any(x.requires_grad for x in (*parameters, *state.values()))
        if plan is None:
            plan = default_plan(self, state, "train" if train else "infer")
        if not isinstance(plan, Plan):
            raise BadInput(f"plan: expected one of foldfit.plan or Plan.load, got {type(plan).__name__}")
        with contextlib.nullcontext() if plan.digest in self.agreed else self.ranks.together():
            check_plan(self, plan)
            batch, state, masks = check_inputs(self, plan, state, masks, train, {p.dtype for p in parameters})
        self.agree(plan, masks)
        if train and plan.problem.gradients == "fresh" and plan.promised.peak_bytes < UNLIMITED:
            if any(p.grad is not None for p in parameters):
                warnings.warn(
                    "gradients of an earlier step are there, which the plan's promise leaves out: plan with gradients='accumulated', "
                    "or set them to None before a step",
                    stacklevel=3,
                )
        names = list(state)
        run: Executor | Replay
        if plan.problem.launch == "graph":
            run = captured(self, plan, state, masks, watch)
        else:
            drawn = self.training and plan.problem.dropout
            seed = self.ranks.same(torch.randint(2**62, (), device=next(iter(state.values())).device)) if drawn else None
            run = Executor(self.sub_modules(), plan, masks, seed, watch, self.ranks)
        if plan.problem.mode == "infer":
            with torch.no_grad():
                out = run.forward(state)
        else:
            last = list(self.specs[-1].state)
            result = Differentiable.apply(run, names, last, parameters, *state.values(), *parameters)
            out = dict(zip(last, result, strict=True))
        return {name: x.view(*batch, *x.shape[1:]) for name, x in out.items()}

    def agree(self, plan: Plan, masks: State) -> None:
        """Before the first run of a plan: raises BadInput where ranks have another plan, other parameters or other masks."""
        if plan.digest in self.agreed or self.ranks.group is None:
            return
        parameters = checksum(list(self.parameters()))
        self.ranks.agree(version=__version__, plan=plan.digest, parameters=parameters, masks=checksum(list(masks.values())))
        self.agreed.add(plan.digest)


class Differentiable(torch.autograd.Function):
    """Joins a planned run to the caller's graph: its forward is the schedule up to `end`, its backward the rest."""

    @staticmethod
    def forward(
        ctx: Any, executor: "Executor | Replay", names: list[str], last: list[str], parameters: list[nn.Parameter], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.executor, ctx.names, ctx.last, ctx.parameters = executor, names, last, parameters
        out = executor.forward(dict(zip(names, tensors, strict=False)))
        ctx.versions = [(x, x._version) for x in (*executor.held(), *parameters)]
        return tuple(out[name] for name in last)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        executor, ctx.executor = ctx.executor, None
        if executor is None:
            raise BadInput("a planned step ran backward already, and its tensors are freed: run forward again")
        versions, ctx.versions = ctx.versions, []
        if any(x._version != version for x, version in versions):
            raise BadInput(
                "an input, an output or a parameter of a planned step was changed in place before its backward, which reads it: "
                "change a copy, or run backward first"
            )
        del versions  # backward lets go of what it holds
        copies = {name: g.clone(memory_format=torch.contiguous_format) for name, g in zip(ctx.last, grads, strict=True)}
        d_state, gradients = executor.backward(copies, ctx.parameters)
        del copies
        return (None, None, None, None, *(d_state[name] for name in ctx.names), *(gradients.pop(p) for p in ctx.parameters))


class Evoformer(Trunk):
    """AF2 Suppl. Alg. 6 "EvoformerStack". `widths`: c_m, c_z, msa_heads, ... where they differ from AF2's."""

    def __init__(self, n_blocks: int = 48, **widths: int) -> None:
        super().__init__(("evoformer", n_blocks, widths))

    @classmethod
    def from_alphafold(cls, source: "str | os.PathLike[str] | Weights", **widths: int) -> Self:
        """With the parameters, and as many blocks, as AlphaFold's `.npz` (or a mapping of the same keys) has."""
        weights = read_npz(source)
        model = cls(count_blocks(stack_spec("evoformer", **widths), weights), **widths)
        model.load_alphafold(weights)
        return model

    def forward(
        self, m: Tensor, z: Tensor, msa_mask: Tensor | None = None, pair_mask: Tensor | None = None, plan: Plan | None = None
    ) -> tuple[Tensor, Tensor]:
        """m [*, n_seq, n_res, c_m], z [*, n_res, n_res, c_z], masks without channels -> m, z."""
        out = self.run({"m": m, "z": z}, given(m=msa_mask, z=pair_mask), plan)
        return out["m"], out["z"]


class ExtraMSAStack(Trunk):
    """AF2 Suppl. Alg. 18 "ExtraMsaStack". `widths`: c_e, c_z, ... where they differ from AF2's."""

    def __init__(self, n_blocks: int = 4, **widths: int) -> None:
        super().__init__(("extra_msa", n_blocks, widths))

    @classmethod
    def from_alphafold(cls, source: "str | os.PathLike[str] | Weights", **widths: int) -> Self:
        """With the parameters, and as many blocks, as AlphaFold's `.npz` (or a mapping of the same keys) has."""
        weights = read_npz(source)
        model = cls(count_blocks(stack_spec("extra_msa", **widths), weights), **widths)
        model.load_alphafold(weights)
        return model

    def forward(
        self, m: Tensor, z: Tensor, msa_mask: Tensor | None = None, pair_mask: Tensor | None = None, plan: Plan | None = None
    ) -> tuple[Tensor, Tensor]:
        """m [*, n_extra, n_res, c_e], z [*, n_res, n_res, c_z], masks without channels -> m, z."""
        out = self.run({"e": m, "z": z}, given(e=msa_mask, z=pair_mask), plan)
        return out["e"], out["z"]


class Pairformer(Trunk):
    """AF3 Suppl. Alg. 17 "PairformerStack". `widths`: c_s, c_z, ... where they differ from AF3's."""

    def __init__(self, n_blocks: int = 48, **widths: int) -> None:
        super().__init__(("pairformer", n_blocks, widths))

    def forward(
        self, s: Tensor, z: Tensor, seq_mask: Tensor | None = None, pair_mask: Tensor | None = None, plan: Plan | None = None
    ) -> tuple[Tensor, Tensor]:
        """s [*, n_res, c_s], z [*, n_res, n_res, c_z], masks without channels -> s, z."""
        out = self.run({"s": s, "z": z}, given(s=seq_mask, z=pair_mask), plan)
        return out["s"], out["z"]


def given(**masks: Tensor | None) -> State:
    return {name: mask for name, mask in masks.items() if mask is not None}
