"""Promised against measured: one metered run of a plan, then timed ones."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from foldfit._version import __version__
from foldfit.errors import BadInput, BrokenPromise
from foldfit.plans import Plan
from foldfit.runtime.apply import State
from foldfit.runtime.captured import CAPTURED
from foldfit.runtime.meter import CpuMeter, CudaMeter
from foldfit.runtime.offload import pool_of
from foldfit.runtime.ranks import Ranks, between
from foldfit.runtime.trunk import Trunk


class Step(msgspec.Struct, frozen=True):
    """What one sub-module reached: peak bytes while it ran, and its seconds in another run, where steps were timed."""

    step: str
    sub_module: str
    peak_bytes: int
    seconds: float = 0.0


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A run beside its promise: bytes, seconds (median of the `repeat` timed runs, of the metered one where there are none;
    `spread` is their interquartile range)."""

    peak_bytes: int
    seconds: float
    spread: float
    repeat: int
    promised_peak_bytes: int
    promised_seconds: float
    host_bytes: int = 0
    """Of the buffers on the host, of which every byte is our own, and of state tensors at home there."""
    promised_host_bytes: int = 0
    exposed: float = 0.0
    """Seconds of the last run in which the computation waited for copies to the host or back, or that went by between the
    beginning and the end of collectives of several ranks; 0 where those are within graphs, which do not time them."""
    promised_exposed: float = 0.0
    rank_peaks: tuple[int, ...] = ()
    """Peak bytes of every rank, where there are several: `peak_bytes` is the largest."""
    activation_bytes: int
    """Alive when forward ends, beyond what was alive before it: the study's "activation memory"; 0 under a graph."""
    device: str
    versions: dict[str, str]
    steps: tuple[Step, ...]

    @property
    def kept(self) -> bool:
        """Whether the promise was kept, on the device and on the host."""
        return self.peak_bytes <= self.promised_peak_bytes and self.host_bytes <= self.promised_host_bytes

    def check(self) -> "Measured":
        """Raises BrokenPromise that names the sub-module at the peak."""
        if self.host_bytes > self.promised_host_bytes:
            raise BrokenPromise(
                f"measured {self.host_bytes} bytes on the host, promised {self.promised_host_bytes}: this is a defect of foldfit; please "
                "report it with the plan"
            )
        if not self.kept:
            worst = max(self.steps, key=lambda s: s.peak_bytes, default=Step("end", "the last step", 0))
            raise BrokenPromise(
                f"measured {self.peak_bytes} bytes, promised {self.promised_peak_bytes}, in {worst.sub_module} of step "
                f"`{worst.step}`: this is a defect of foldfit; please report it with the plan"
            )
        return self


def split_inputs(model: Trunk, inputs: Mapping[str, Tensor] | Sequence[Tensor]) -> tuple[State, State]:
    """State tensors and masks by tensor name; `inputs` is a mapping (m, z, msa_mask, ...) or the tensors in order."""
    names = list(dict.fromkeys(name for spec in model.specs for name in spec.state))
    masks = {mask: name for spec in model.specs for name, mask in spec.masks.items()}
    if not isinstance(inputs, Mapping):
        inputs = dict(zip(names, inputs, strict=False))
    unknown = set(inputs) - set(names) - set(masks)
    if unknown or not set(names) <= set(inputs):
        raise BadInput(f"inputs: expected {', '.join(names)} and perhaps {', '.join(masks)}, got {', '.join(inputs)}")
    return {n: inputs[n] for n in names}, {masks[k]: v for k, v in inputs.items() if k in masks}


def measure(
    model: Trunk,
    inputs: Mapping[str, Tensor] | Sequence[Tensor],
    plan: Plan,
    *,
    repeat: int = 1,
    warmup: int = 0,
    budget: float = inf,
    optimizer: torch.optim.Optimizer | None = None,
    on_step: Callable[[str, str], None] | None = None,
) -> Measured:
    """Runs the plan once under a meter, `warmup` times for nothing, and `repeat` times against the clock. No run
    after the metered one begins that, as long as the one before, would make all of them longer than `budget` seconds; of the metered
    one at most three times the promise counts, since it may also compile kernels. Warm-ups are given up first.

    Under the meter a captured plan is replayed too: its graphs use memory that the allocator does not count as allocated.
    An inference runs forward; a training step forward, backward from random output gradients, and the optimizer, beside gradients where
    the plan says that they accumulate; afterwards there are none. Raises
    BadInput for a plan that is not for this model and these inputs; the promise is checked by `.check()` of the result.
    """
    state, masks = split_inputs(model, inputs)
    parameters = list(model.parameters())
    model.zero_grad(set_to_none=True)
    for p in parameters if plan.problem.gradients == "accumulated" else ():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    alive = [
        *parameters,
        *(p.grad for p in parameters if p.grad is not None),
        *(x for name, x in state.items() if name not in plan.hosted),
        *masks.values(),
    ]
    if optimizer:
        alive += [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
    cuda, eager = plan.problem.device_type == "cuda", plan.problem.launch == "eager"
    meter = CudaMeter(alive, plan.resident.get("workspace", 0)) if cuda else CpuMeter(alive)
    steps: list[Step] = []
    activation = 0

    def watch(step: str, sub_module: str) -> None:
        steps.append(Step(step, sub_module, meter.peak()))
        meter.reset()
        if on_step:
            on_step(step, sub_module)

    def forward_ended(before: int) -> None:
        nonlocal activation
        activation = meter.now() - before

    run = partial(once, model, state, masks, plan, optimizer)
    pool_of.cache_clear()
    model.ranks.waits = []
    start = clock(cuda)
    with meter:
        run(watch, lambda: partial(forward_ended, meter.now()))
        last = meter.peak()
        if not eager:
            meter.reset()
            run()
            last = max(last, meter.peak() + CAPTURED[model].held)
    metered = clock(cuda) - start
    first = min(metered, 3 * plan.promised.seconds or metered)
    times: list[float] = []
    while repeat and len(times) < warmup + repeat and fits(first + sum(times) + (times or [first])[-1], budget, model.ranks, cuda):
        model.ranks.waits = []
        start = clock(cuda)
        run()
        times.append(clock(cuda) - start)
    waits = model.ranks.waits or []
    model.ranks.waits = None
    model.zero_grad(set_to_none=True)
    timed = sorted(times[min(warmup, len(times) - 1) :]) if times else []
    times = timed or [metered]
    return Measured(
        peak_bytes=max([last, *(s.peak_bytes for s in steps)]),
        seconds=times[len(times) // 2],
        spread=times[(3 * len(times)) // 4] - times[len(times) // 4],
        repeat=len(timed),
        promised_peak_bytes=plan.promised.peak_bytes,
        promised_seconds=plan.promised.seconds,
        host_bytes=pool_of(plan.digest, cuda).held,
        promised_host_bytes=plan.promised.host_bytes,
        exposed=sum(between(*wait) for wait in waits) if eager else 0.0,
        promised_exposed=plan.promised.exposed,
        activation_bytes=activation if eager else 0,
        device=torch.cuda.get_device_name() if cuda else "cpu",
        versions={"foldfit": __version__, "torch": str(torch.__version__)},
        steps=tuple(steps),
    )


def fits(seconds: float, budget: float, ranks: Ranks, cuda: bool) -> bool:
    """Whether these seconds of the slowest rank are within the budget: what one rank runs, all must."""
    if ranks.group is not None and budget < inf:
        slowest = torch.tensor(seconds, device="cuda" if cuda else "cpu")
        dist.all_reduce(slowest, dist.ReduceOp.MAX, group=ranks.all or ranks.group)
        seconds = float(slowest)
    return seconds <= budget


def once(
    model: Trunk,
    state: State,
    masks: State,
    plan: Plan,
    optimizer: torch.optim.Optimizer | None,
    watch: Callable[[str, str], None] | None = None,
    forward: Callable[[], Callable[[], None]] | None = None,
) -> None:
    """One run of a plan. `forward`: called before it; what it returns, when forward has ended. Inputs that it overwrites are copied
    before, but for those on the host, which may have no room for two: there, runs follow on each other's results."""
    train = plan.problem.mode == "train"
    lost = state.keys() - set(plan.hosted) if plan.problem.inputs == "overwritten" and not watch else set()
    fresh = {k: v.clone() if k in lost else v for k, v in state.items()}
    with torch.set_grad_enabled(train):
        ended = forward() if forward else None
        out = model.run(fresh, masks, plan, watch)
        if ended:
            ended()
        if train:
            grads = [torch.randn_like(x) for x in out.values()]
            torch.autograd.backward(list(out.values()), grads)
            del grads
    del out
    if train:
        if optimizer:
            optimizer.step()
        if plan.problem.gradients == "fresh":
            model.zero_grad(set_to_none=True)


def clock(cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()
