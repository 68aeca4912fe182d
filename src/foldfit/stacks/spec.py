"""What a sub-module is, as data: the axes it maps, its parameters, and what each kernel that can run it costs.

One letter a ROLE, not a size (`sizes` in cost/sizes.py gives them numbers):
    r rows at hand    R all rows    n the other axis    k keys    c channels in    z channels of the pair or out
    h heads           d head dim    e heads * head dim  u hidden  o p outer-product channels    t 1 if a slice is copied, else 0
    v the same of its mask alone, where ranks share the other axis
    q elements, of r n, that a kernel takes at a time          s g shares of r n, of r R, with sums of their own
    w n filled up to what a kernel reads fast, 0 if it is so
An expression is a sum of tensors, "r n c + 4 r n e + f32 2 r n": a leading number counts, `f32` fixes 4 bytes an element
where the others have the storage precision's.
"""

from dataclasses import dataclass, field
from typing import Literal

Axis = tuple[str, int]
"""(state tensor, its axis that is mapped over)"""


@dataclass(frozen=True)
class Phase:
    """One call, of `share` or of `update`, on r rows. Bytes and FLOPs are of what the call itself makes.

    `matmuls`: einsum strings; two FLOPs per multiply-add, twice as many again in backward.
    `moves`, `back_moves`: every tensor read or written once, by forward and by backward.
    `forward`, `record`, `backward`: the moments that may be the memory peak: all tensors of the call alive then, without
    gradients, with gradients recorded, and in backward (what forward saved included).
    `saved`: what autograd keeps from forward to backward. `calls`, `back_calls`: kernels launched.
    """

    matmuls: tuple[str, ...]
    moves: str
    back_moves: str
    forward: tuple[str, ...]
    record: tuple[str, ...]
    saved: str
    backward: tuple[str, ...]
    calls: int
    back_calls: int
    back_matmuls: tuple[str, ...] | None = None
    """The matmuls of backward where they are not each forward one twice."""
    strided: bool = False
    """Whether it reads its rows and their mask where they lie, those of the second axis too, which others get a copy of."""
    biases: tuple[tuple[str, str], ...] = ()
    """(parameter, leading axes): its gradient, where the sub-module has it, is a product with ones over these axes."""


@dataclass(frozen=True)
class Kernel:
    """One way to compute a sub-module: a name in `foldfit.ops.KERNELS` and its two phases."""

    update: Phase
    share: Phase | None = None
    devices: tuple[str, ...] = ("cpu", "cuda")
    precisions: tuple[str, ...] = ("fp32", "tf32", "bf16", "fp16")
    multiple: int = 1
    """The other axis' length must be a multiple of it."""
    within: tuple[tuple[str, int, int], ...] = ()
    """(role, least, most): widths it is made for."""
    sixteenths: tuple[str, ...] = ()
    """Roles of which one at least has a width that is a multiple of 16."""
    shortest: int = 1
    """The least length of the other axis."""
    ends: tuple[str, ...] = ()
    """The moments of `conclude` beside what it is given, where it has one: as a phase's `forward`."""
    turns: tuple[tuple[str, int], ...] = ()
    """(precision, length of the other axis) from which on it runs by other code, perhaps on some devices alone: checked there too."""
    recorded: tuple[str, ...] = ("fp32", "tf32", "bf16", "fp16")
    """The precisions in which it has a backward, where its update has any."""
    package: str = ""
    """The module that it needs and foldfit does not: it is planned where that is trusted or asked for (cost/trust.py)."""

    def made_for(self, widths: dict[str, int]) -> bool:
        fits = all(low <= widths[role] <= high for role, low, high in self.within)
        return fits and (not self.sixteenths or any(widths[role] % 16 == 0 for role in self.sixteenths))


@dataclass(frozen=True)
class Parameter:
    """`dims`: its shape in role letters, AlphaFold's own layout. `key`: its name in AlphaFold's published file, below the block."""

    dims: str
    key: str = ""
    init: Literal["lecun", "relu", "zeros", "ones"] = "lecun"


@dataclass(frozen=True)
class SubModuleSpec:
    """One sub-module of a block: a row map with at most one gathered side input (docs/design.md, 3)."""

    name: str
    kind: str
    algorithm: str
    reads: tuple[Axis, ...]
    writes: Axis
    widths: dict[str, int]
    parameters: dict[str, Parameter | None]
    kernels: dict[str, dict[str, Kernel]]
    """Kernel name -> device type ("cpu", "cuda") -> its cost."""
    shares: Axis | None = None
    shared: tuple[str, ...] = ()
    """The dims of the tensors that `share` yields once gathered; of `shares`' sizes."""
    shared_masks: int = 0
    """How many of them, at the end, are masks and have no gradient."""
    prepared: tuple[str, ...] = ()
    """Where it maps the rows of `shares` as well, which then are the other axis of what it writes: the dims of the tensors with a
    gradient that `prepare` makes of r rows, for `finish` to go over the shared rows piece by piece."""
    channels: str = ""
    """The role, of a square tensor's sub-module, of the channels of what it shares and prepares, each of which is combined alone: ranks
    may exchange their rows, or columns, for all of some channels (runtime/channels.py)."""
    pointwise: bool = False
    """Whether it could as well map over the other axis."""
    dropout: float = 0.0
    dropout_over: Literal["r", "n"] = "r"
    """The axis (in mapped order) along which the dropout mask is the same: AF2 Suppl. 1.11.6."""

    def strided(self, kernel: str, phase: str) -> bool:
        """Whether that kernel's phase, "share" or "update", reads its rows where they lie: on one device type as on another."""
        cost = next(iter(self.kernels[kernel].values()))
        return getattr(cost, phase).strided  # type: ignore[no-any-return]

    @property
    def touches(self) -> frozenset[str]:
        """The state tensors that it reads, shares or writes."""
        return frozenset(name for name, _ in (*self.reads, self.writes, *((self.shares,) if self.shares else ())))


@dataclass(frozen=True)
class StackSpec:
    """A stack of equal blocks. `state`: tensor -> its axes and channel width, in the order in which tensors enter."""

    name: str
    algorithm: str
    state: dict[str, tuple[str, ...]]
    widths: dict[str, int]
    sub_modules: tuple[SubModuleSpec, ...]
    prefix: str = ""
    """Where AlphaFold's published file keeps the stack's parameters."""
    default_blocks: int = 48
    masks: dict[str, str] = field(default_factory=dict)
    """State tensor -> the name of its mask."""

    @property
    def msa_axis(self) -> str:
        """What its MSA's rows are called; empty where it has no MSA."""
        return next((d for dims in self.state.values() for d in dims if d in ("n_seq", "n_extra")), "")
