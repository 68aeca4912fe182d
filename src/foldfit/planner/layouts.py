"""Over several ranks: which axis each state tensor is sharded over while a sub-module runs, and what changing it takes.

A block begins and ends with axis 0 everywhere. A sub-module wants the axes that it maps, a pointwise one takes either. What a
sub-module does not touch is relaid beside it, hidden behind its computation. The fewest seconds of re-laying are a shortest path over
the layouts of all tensors, sub-module by sub-module (Viterbi 1967).
"""

from dataclasses import dataclass, replace
from itertools import pairwise, product

from foldfit.cost.collectives import relay
from foldfit.cost.devices import Device
from foldfit.cost.memory import Bytes
from foldfit.cost.sizes import Shapes
from foldfit.problem import relay_parts
from foldfit.stacks import StackSpec, SubModuleSpec

Layout = dict[str, int]
"""State tensor -> the axis that it is sharded over."""

HIDDEN = 0.01
"""What a relay that a sub-module hides counts less than one that everything waits for: among as few relays the hidden ones are better."""


@dataclass(frozen=True)
class Passage:
    """What lies around one sub-module of a block: the relays before it and, after the last one, home.

    Bytes are a rank's. `written`: by which a recorded block grows, `final`: whether they are handed on; `kept`: originals that records
    hold beside their copies. Peaks beyond what is alive: `run` of the relays of a run, `before` and `after` of those of a recorded
    run, both from before the sub-module on, `back` and `back_after` of those of the gradients. `beside`: what is alive of the relays
    under way while the sub-module runs, forward or back, which take `hidden` seconds each way. `calls`: of collectives by the host, for
    all of these.
    """

    layout: Layout
    written: int
    final: bool
    kept: int
    run: int
    before: int
    after: int
    back: int
    back_after: int
    seconds: float
    back_seconds: float
    beside: int = 0
    hidden: float = 0.0
    calls: int = 0
    back_calls: int = 0

    @property
    def text(self) -> str:
        return " ".join(f"{name}{axis}" for name, axis in self.layout.items())

    def around(self, own: Bytes, target: int) -> Bytes:
        """A sub-module's bytes with the relays'; `target`: of the new version of what it writes."""
        inter = max(self.before, self.kept + self.beside + target + own.inter, self.after) - self.written
        back = max(self.kept + max(own.back + self.beside, own.saved + self.back), self.back_after)
        return Bytes(inter, own.saved, back, max(own.forward + self.beside, self.run))


def wanted(sub: SubModuleSpec) -> Layout:
    return {} if sub.pointwise else dict((*sub.reads, sub.writes, *((sub.shares,) if sub.shares else ())))


def loosened(spec: StackSpec) -> StackSpec:
    """With what can exchange channels taking either axis."""
    return replace(spec, sub_modules=tuple(replace(sub, pointwise=sub.pointwise or bool(sub.channels)) for sub in spec.sub_modules))


def cheapest(spec: StackSpec, seconds: dict[str, float], computing: dict[str, float]) -> list[Layout]:
    """Of each sub-module, such that all relays of a block take the least; `seconds`: of one relay of each tensor, `computing`: of each
    sub-module, by name. Among equals the one that moves late."""
    names, home = tuple(spec.state), (0,) * len(spec.state)

    def between(a: tuple[int, ...], b: tuple[int, ...], beside: SubModuleSpec | None = None) -> float:
        return sum(moving(name, beside) for name, x, y in zip(names, a, b, strict=True) if x != y)

    def moving(name: str, beside: SubModuleSpec | None) -> float:
        hidden = 0.0 if beside is None or name in beside.touches else min(seconds[name], computing[beside.name])
        return seconds[name] - HIDDEN * hidden

    reached: dict[tuple[int, ...], tuple[float, list[tuple[int, ...]]]] = {home: (0.0, [])}
    for sub in spec.sub_modules:
        options = [(axis,) if (axis := wanted(sub).get(name)) is not None else axes_of(spec, name) for name in names]
        here = {}
        for layout in product(*options):
            best = min(reached, key=lambda old: (round(reached[old][0] + between(old, layout, sub), 12), -distance(old, layout)))
            here[layout] = reached[best][0] + between(best, layout, sub), [*reached[best][1], layout]
        reached = here
    # Late: of equal paths the one whose layouts stay longest away from home.
    end = min(reached, key=lambda last: (round(reached[last][0] + between(last, home), 12), -sum(last)))
    return [dict(zip(names, layout, strict=True)) for layout in reached[end][1]]


def distance(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tensors move."""
    return sum(x != y for x, y in zip(a, b, strict=True))


def axes_of(spec: StackSpec, name: str) -> tuple[int, ...]:
    return (0, 1) if len(spec.state[name]) == 3 else (0,)


def passages(
    spec: StackSpec, shapes: Shapes, device: Device, itemsize: int, batch: int, align: int, computing: dict[str, float]
) -> list[Passage]:
    """Of each sub-module of a block; `computing`: about how long each takes, by name. Alone nothing moves."""
    one = {name: itemsize * shapes.own_elements(name) for name in spec.state}
    block = Versions(
        {name: batch * size for name, size in one.items()},
        {name: buffers(shapes, name, itemsize, align) for name in one},
        {name: batch * -(-size // align) * align for name, size in one.items()},
    )
    home = dict.fromkeys(one, 0)
    parts = {name: relay_parts(size) for name, size in one.items()}
    if shapes.ranks == 1:
        seconds, layouts = dict.fromkeys(one, 0.0), [home] * len(spec.sub_modules)
    else:
        seconds = {name: batch * relay(device, shapes.ranks, one[name], n) for name, n in parts.items()}
        layouts = cheapest(spec, seconds, computing)
    around, out = [home, *layouts, home], []
    for i, sub in enumerate(spec.sub_modules):
        after_it = spec.sub_modules[i + 1] if i + 1 < len(layouts) else None
        arriving, leaving = changed(around[i], around[i + 1]), changed(around[i + 1], around[i + 2])
        under_way = [name for name in arriving if name not in sub.touches]
        arriving = [name for name in arriving if name in sub.touches]
        ending = [] if after_it else leaving
        # Of gradients, before the sub-module's backward: what did not move beside the one after it.
        leaving = [name for name in leaving if after_it is None or name in after_it.touches]
        departing = [] if i else arriving
        start = block.alive()
        before, kept = block.relay(arriving)
        block.relay(under_way)
        block.run(sub)
        grown = block.alive() - start
        after = grown + block.relay(ending)[0] if ending else 0
        out.append(Passage(
            layouts[i] if shapes.ranks > 1 else {}, block.alive() - start, False, kept, block.moving(arriving + ending), before, after,
            block.moving(leaving), block.moving(departing), sum(seconds[n] for n in arriving + ending),
            sum(seconds[n] for n in leaving + departing), sum(block.size[n] + block.away[n] for n in under_way),
            sum(seconds[n] for n in under_way), batch * (sum(parts[n] for n in arriving + ending) + len(under_way)),
            batch * (sum(parts[n] for n in leaving + departing) + len(under_way)),
        ))  # fmt: skip
        block.mark()
    return [replace(p, final=final) for p, final in zip(out, block.handed_on(), strict=True)]


def buffers(shapes: Shapes, name: str, itemsize: int, align: int) -> int:
    """Bytes beside its result of a relay that all wait for: of one sample what is packed or unpacked, or two parts of that."""
    size, lengths = itemsize * shapes.own_elements(name), shapes.axes[name]
    parts = relay_parts(size)
    if parts == 1 or len(lengths) == 1:
        return -(-size // align) * align
    own = -(-lengths[0] // shapes.ranks)
    rows = -(-own // parts)
    return 2 * (-(-itemsize * shapes.channels[name] * rows * lengths[1] // align) * align)


def changed(old: Layout, new: Layout) -> list[str]:
    return [name for name in new if old[name] != new[name]]


class Versions:
    """The versions of the state tensors while a block is recorded, as numbers: which are held, and by whom. The block's inputs, which
    are not its own, are counted elsewhere. `buffer`: bytes that a relay needs beside its result, `away`: one that is under way."""

    def __init__(self, size: dict[str, int], buffer: dict[str, int], away: dict[str, int]) -> None:
        self.size, self.buffer, self.away = size, buffer, away
        self.names: list[str] = []
        """Of every version."""
        self.state = {name: self.new(name) for name in size}
        self.inputs = set(self.state.values())
        self.held = set(self.inputs)
        self.ends = [len(self.names)]
        """How many versions there were at the end of each sub-module."""

    def new(self, name: str) -> int:
        self.names.append(name)
        return len(self.names) - 1

    def alive(self) -> int:
        return sum(self.size[self.names[v]] for v in (self.held | set(self.state.values())) - self.inputs)

    def moving(self, names: list[str]) -> int:
        return max((self.size[name] + self.buffer[name] for name in names), default=0)

    def relay(self, names: list[str]) -> tuple[int, int]:
        """(peak beyond what was alive, bytes of originals that stay): one tensor after the other."""
        peak = kept = 0
        for name in names:
            peak = max(peak, kept + self.moving([name]))
            kept += self.size[name] if self.state[name] in self.held else 0
            self.state[name] = self.new(name)
        return peak, kept

    def run(self, sub: SubModuleSpec) -> None:
        """Its record holds what it reads."""
        self.held |= {self.state[name] for name, _ in (*sub.reads, *((sub.shares,) if sub.shares else ()))}
        self.state[sub.writes[0]] = self.new(sub.writes[0])

    def mark(self) -> None:
        self.ends.append(len(self.names))

    def handed_on(self) -> list[bool]:
        """Of each sub-module: whether all that is left of the versions it made is the block's result."""
        result = set(self.state.values())
        made = [set(range(a, b)) & (self.held | result) for a, b in pairwise(self.ends)]
        return [bool(versions) and versions <= result for versions in made]
