"""What is to be planned: a trunk, its sizes, a mode, a device and a memory limit. Pure data."""

from typing import Literal, get_args

import msgspec

from foldfit.errors import BadInput, NotSupported

Mode = Literal["infer", "train"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Launch = Literal["eager", "graph"]
Storage = Literal["fp32", "bf16", "fp16"]
Optimizer = Literal["none", "sgd", "adam"]
Inputs = Literal["kept", "overwritten"]
DeviceType = Literal["cpu", "cuda"]
Gradients = Literal["fresh", "accumulated"]

WORDS = {
    "mode": Mode, "precision": Precision, "parameters": Storage, "optimizer": Optimizer, "inputs": Inputs, "launch": Launch,
    "device_type": DeviceType, "gradients": Gradients,
}  # fmt: skip
"""Of a problem: what may stand in these."""

ITEMSIZE: dict[str, int] = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}
"""Bytes of an element as stored."""

OPTIMIZER_STATE: dict[str, int] = {"none": 0, "sgd": 0, "adam": 2}
"""Tensors of an optimizer's state per parameter tensor: Adam keeps two moments, plain SGD nothing."""


RELAY_BYTES = 2**28
"""Of a tensor that ranks lay out anew, about what is on its way at a time: a collective of so many bytes is long enough."""


def bounds(total: int, size: int) -> list[tuple[int, int]]:
    """(start, stop) of every rank's rows; the first ranks have one more where `total` does not divide."""
    base, more = divmod(total, size)
    starts = [rank * base + min(rank, more) for rank in range(size + 1)]
    return list(zip(starts, starts[1:], strict=False))


def relay_parts(size: int) -> int:
    """In how many parts a sample of `size` bytes, the most that a rank has of it, is relaid."""
    return -(-size // RELAY_BYTES)


class Stack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stack of equal blocks; `rows` is n_seq (evoformer), n_extra (extra_msa), 0 where there is no MSA (pairformer)."""

    name: str
    blocks: int
    rows: int = 0
    widths: dict[str, int] = {}


class Problem(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`memory`: the limit in bytes on what the run may allocate. `inputs`: "kept" leaves the caller's tensors as they are,
    "overwritten" lets an inference write the result into them. `gradients`: whether those of the parameters
    are None when a training step begins, or there already, to be added to. `launch`: kernel by kernel, or as CUDA graphs. `host_memory`:
    bytes of pinned host memory that block inputs of a training step may wait in, or state tensors of an inference may be at home in,
    0 for none. `world`: ranks, a device each;
    `axial`: how many of them share one sample, the rest being replicas on samples of their own. Limits are a rank's.

    Raises BadInput for sizes below 1, an unknown word or a mode without sense, NotSupported for host memory or ranks where nothing uses
    them yet.
    """

    stacks: tuple[Stack, ...]
    n_res: int
    mode: Mode = "infer"
    precision: Precision = "fp32"
    parameters: Storage = "fp32"
    optimizer: Optimizer = "none"
    gradients: Gradients = "fresh"
    dropout: bool = False
    inputs: Inputs = "kept"
    batch: int = 1
    launch: Launch = "eager"
    device: str = "cpu"
    device_type: DeviceType = "cpu"
    memory: int
    host_memory: int = 0
    world: int = 1
    axial: int = 1

    def __post_init__(self) -> None:
        for name, words in WORDS.items():
            if getattr(self, name) not in get_args(words):
                raise BadInput(f"{name}: expected one of {', '.join(get_args(words))}, got {getattr(self, name)!r}")
        if not self.stacks:
            raise BadInput("a problem needs at least one stack")
        sizes = {"n_res": self.n_res, "batch": self.batch, "memory": self.memory, "world": self.world, "axial": self.axial}
        for stack in self.stacks:
            sizes |= {f"blocks of {stack.name}": stack.blocks}
            if stack.rows or stack.name in ("evoformer", "extra_msa"):
                sizes |= {f"n_seq of {stack.name}": stack.rows}
        for name, value in sizes.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise BadInput(f"{name}: expected a whole number of at least 1, got {value!r}")
        if self.world % self.axial:
            raise BadInput(f"axial: expected a divisor of the {self.world} ranks, got {self.axial}")
        if self.axial > 1 and self.inputs == "overwritten":
            raise NotSupported("overwritten inputs over several ranks, which re-lay them: keep the inputs")
        if not isinstance(self.host_memory, int) or self.host_memory < 0:
            raise BadInput(f"host_memory: expected a whole number of bytes, 0 for none, got {self.host_memory!r}")
        if self.host_memory and self.launch == "graph":
            raise NotSupported("host memory beside a CUDA graph: launch eagerly, or leave --host-memory out")
        if self.host_memory and self.mode == "infer" and self.axial > 1:
            raise NotSupported("an inference with host memory over several ranks: leave --host-memory out")
        if self.host_memory and self.mode == "infer" and self.inputs == "kept":
            raise NotSupported("an inference with host memory works on its inputs where they lie there: plan with --inputs overwritten")
        if self.mode == "infer" and self.optimizer != "none":
            raise BadInput(f"an inference has no optimizer: leave --optimizer {self.optimizer} out, or plan with --mode train")
        if self.mode == "infer" and self.gradients != "fresh":
            raise BadInput("an inference has no gradients: leave --gradients out, or plan with --mode train")
        if self.mode == "infer" and self.dropout:
            raise BadInput("an inference has no dropout")
        if self.launch == "graph" and (self.device_type != "cuda" or self.inputs == "overwritten"):
            raise BadInput("graphs are CUDA's, and keep their inputs: launch eagerly")
        if self.mode == "train" and self.inputs == "overwritten":
            raise BadInput("a training step needs its inputs in backward: inputs must be kept")

    @property
    def itemsize(self) -> int:
        """Bytes of an activation's element."""
        return ITEMSIZE[self.precision]

    @property
    def blocks(self) -> int:
        return sum(stack.blocks for stack in self.stacks)
