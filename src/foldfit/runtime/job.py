"""A plan made runnable: the model, its parameters and its inputs, from an alignment or random."""

import importlib.util
import os
import re
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from foldfit.errors import BadInput, MissingEnvironment
from foldfit.plans import Plan, replacing
from foldfit.runtime.check import check_card
from foldfit.runtime.link import host_buffer
from foldfit.runtime.measure import split_inputs
from foldfit.runtime.ranks import ALONE, Ranks
from foldfit.runtime.shards import unshard
from foldfit.runtime.trunk import DTYPES, Trunk

if TYPE_CHECKING:
    from foldfit.inputs.features import Features

ROWS = 64
"""Of a tensor on the host, drawn at a time."""

PARAMETERS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Job:
    model: Trunk
    inputs: dict[str, Tensor]
    optimizer: torch.optim.Optimizer | None
    notes: list[str]


def job_of(plan: Plan, msa: str | None = None, weights: str | None = None, seed: int = 0, ranks: Ranks = ALONE) -> Job:
    """Raises BadInput for an alignment or parameters that are not the plan's and a seed below 0, MissingEnvironment without the device.
    Over several ranks the inputs are this rank's, of a sample of its replica's own where they are random."""
    problem = plan.problem
    if not 0 <= seed < 2**63:
        raise BadInput(f"seed: expected a whole number from 0 to 2**63 - 1, got {seed}")
    if problem.device_type == "cuda" and not torch.cuda.is_available():
        raise MissingEnvironment(f"the plan is for {problem.device} and this machine has no CUDA device: plan with --device cpu")
    if problem.device_type == "cuda":
        check_card(problem.device, torch.cuda.get_device_name())
    torch.manual_seed(seed)
    device, dtype = torch.device(problem.device_type), DTYPES[problem.precision]
    with device:  # random parameters are drawn where they are used: 48 blocks' take long on a processor
        model = Trunk(*((s.name, s.blocks, s.widths) for s in problem.stacks))
    notes = []
    if weights:
        model.load_alphafold(weights)
    else:
        notes.append("parameters are random, of the published shapes: give --weights params_model_N.npz for AlphaFold's")
    model.to(device, PARAMETERS[problem.parameters])
    model.train(problem.dropout)
    model.over(ranks.group, ranks.all)
    if msa:
        whole = embedded(plan, msa, weights, seed)
        state = split_inputs(model, whole)[0]
        inputs = whole | {name: ranks.narrow(x, 0).contiguous() for name, x in state.items()}
    else:
        notes.append("inputs are random: give --msa FILE.a3m for a protein's")
        torch.manual_seed(seed + (dist.get_rank() if dist.is_initialized() else 0))
        inputs = random_inputs(model, plan)
    inputs = {k: v.to("cpu" if k in plan.hosted else device, dtype) for k, v in inputs.items()}
    return Job(model, inputs, optimizer_of(model, problem.optimizer), notes)


def random_inputs(model: Trunk, plan: Plan) -> dict[str, Tensor]:
    """Drawn where they are used: a long protein's pair tensor has no room elsewhere. What is at home on the host is drawn on the
    device, some rows at a time."""
    out: dict[str, Tensor] = {}
    device, dtype = plan.problem.device_type, DTYPES[plan.problem.precision]
    batch = (plan.problem.batch,) if plan.problem.batch > 1 else ()
    for spec, stack in zip(model.specs, plan.problem.stacks, strict=True):
        numbers = {"n_seq": stack.rows, "n_extra": stack.rows, "n_res": plan.problem.n_res, **spec.widths}
        for name, dims in spec.state.items():
            start, stop = model.ranks.own(numbers[dims[0]])
            shape = (*batch, stop - start, *(numbers[d] for d in dims[1:]))
            if name not in plan.hosted:
                out[name] = torch.randn(shape, device=device, dtype=dtype)
                continue
            out[name] = host_buffer(prod(shape) * dtype.itemsize, device == "cuda").view(dtype).view(shape)
            for part in out[name].flatten(0, len(batch)).split(ROWS):
                part.copy_(torch.randn(part.shape, device=device, dtype=dtype))
    return out


def embedded(plan: Plan, msa: str, weights: str | None, seed: int) -> dict[str, Tensor]:
    """AF2's featurisation and InputEmbedder of the alignment, in the plan's sizes."""
    from foldfit.inputs.a3m import read_a3m
    from foldfit.inputs.features import featurise
    from foldfit.model.embedder import embed

    problem = plan.problem
    rows = {s.name: s.rows for s in problem.stacks}
    if "pairformer" in rows or problem.batch != 1:
        raise BadInput("an alignment makes the inputs of AlphaFold 2's stacks, one sample at a time")
    alignment = read_a3m(msa)
    if alignment.rows.shape[1] != problem.n_res:
        raise BadInput(f"{msa} has {alignment.rows.shape[1]} residues, the plan is for {problem.n_res}: plan with --msa {msa}")
    features: Features = featurise(alignment, rows.get("evoformer", 1), rows.get("extra_msa", 1), seed)
    widths = {k: v for s in problem.stacks for k, v in s.widths.items()}
    return embed(features, weights, widths, "evoformer" in rows, "extra_msa" in rows)


def optimizer_of(model: Trunk, name: str) -> torch.optim.Optimizer | None:
    """With its state allocated, as in every step but the first."""
    if name == "none":
        return None
    optimizer = (
        torch.optim.SGD(model.parameters(), lr=1e-3) if name == "sgd" else torch.optim.Adam(model.parameters(), lr=1e-5, foreach=False)
    )
    for p in model.parameters() if name == "adam" else ():
        optimizer.state[p] = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    return optimizer


def can_save() -> None:
    """Raises MissingEnvironment without safetensors."""
    if importlib.util.find_spec("safetensors") is None:
        raise MissingEnvironment("--save needs the package safetensors: pip install foldfit[save]")


def save_state(job: Job, plan: Plan, path: "str | os.PathLike[str]") -> None:
    """The representations after an inference, whole, as safetensors, by the first rank. Raises as `can_save` and `replacing`."""
    can_save()
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state, masks = split_inputs(job.model, job.inputs)
    with torch.no_grad():
        out = job.model.run(state, masks, plan)
    if job.model.ranks.size > 1:
        out = {name: unshard(x, job.model.ranks.group, dim=int(plan.problem.batch > 1)) for name, x in out.items()}
    if dist.is_initialized() and dist.get_rank() > 0:
        return
    with replacing(path) as temporary:
        try:
            save_file({name: x.contiguous().cpu() for name, x in out.items()}, temporary)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(0, str(error)) from None
