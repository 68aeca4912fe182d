"""The abstract numbers a solver works on: bytes are ints, seconds floats. What the executor does with them: simulate.py."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Forward:
    """An option of running a sub-module without recording: peak bytes beyond the state, seconds, and which state tensors are on the
    host meanwhile."""

    inter: int
    seconds: float
    key: object
    host: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Record:
    """An option of running it recorded. `inter`: peak beyond the new version and what earlier sub-modules saved, its own
    saved bytes included; `saved`: kept until its backward; `back`: peak of its backward, its own saved bytes included."""

    inter: int
    saved: int
    back: int
    seconds: float
    back_seconds: float
    key: object


@dataclass(frozen=True)
class Sub:
    """`written`: bytes by which a recorded run grows the block: the new version of the state tensor, and what relays leave."""

    name: str
    written: int
    forward: tuple[Forward, ...]
    record: tuple[Record, ...]
    final: bool = False
    """Whether they are the block's result."""


@dataclass(frozen=True)
class Stage:
    """One block type. `state`: bytes that its blocks pass on, and of their gradient. `entry`: bytes that a checkpoint at
    the input of its first block costs (default: state), less where the caller holds part of it. `names`: its state tensors."""

    name: str
    state: int
    subs: tuple[Sub, ...]
    entry: int | None = None
    names: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Chain:
    """(stage, blocks) in order. `base_forward`, `base_backward`: bytes that stay in either phase; `outputs`: bytes of the
    final state, which the caller holds in the backward phase and base_backward includes. `owned`: the caller's input may
    be overwritten. `host_memory`: bytes of pinned host memory; `host_link`: bytes/s of copies, each way. `home`: bytes of the state
    tensors whose home is the host; base_forward has none of them."""

    runs: tuple[tuple[Stage, int], ...]
    base_forward: int
    base_backward: int
    outputs: int
    owned: bool = False
    host_memory: int = 0
    host_link: float = 0.0
    home: tuple[tuple[str, int], ...] = ()

    def stages(self) -> list[Stage]:
        """One a block."""
        return [stage for stage, blocks in self.runs for _ in range(blocks)]
