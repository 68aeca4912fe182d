"""Small chains for the planner's tests: unless scaled, of so few bytes that every byte is a slot, nothing rounded."""

from hypothesis import strategies as st

from foldfit.planner.table import Chain, Forward, Record, Stage, Sub

SECONDS = st.integers(1, 40)


@st.composite
def subs(draw: st.DrawFn, name: str, options: int, scale: int) -> Sub:
    sizes = st.integers(0, 9 * scale)
    forward = tuple(Forward(draw(sizes), draw(SECONDS), f"f{i}") for i in range(draw(st.integers(1, options))))
    record = []
    for i in range(draw(st.integers(1, options))):
        saved = draw(sizes)
        record.append(Record(saved + draw(sizes), saved, saved + draw(sizes), draw(SECONDS), draw(SECONDS), f"r{i}"))
    return Sub(name, draw(sizes), forward, tuple(record), draw(st.booleans()))


@st.composite
def stages(draw: st.DrawFn, name: str = "stage", options: int = 3, scale: int = 1, entry: bool = False) -> Stage:
    state = draw(st.integers(1, 9 * scale))
    held = draw(st.none() | st.integers(0, state)) if entry else None
    count = draw(st.integers(1, 2))
    return Stage(name, state, tuple(draw(subs(f"sub{j}", options, scale)) for j in range(count)), held)


@st.composite
def chains(draw: st.DrawFn, options: int = 3, scale: int = 1) -> Chain:
    """At most three runs and four blocks; `scale`: bytes, about a ninth of the largest size."""
    runs = []
    left = draw(st.integers(1, 4))
    while left and len(runs) < 3:
        count = draw(st.integers(1, left))
        runs.append((draw(stages(f"stage{len(runs)}", options, scale, entry=bool(runs))), count))
        left -= count
    base = draw(st.integers(0, 20 * scale))
    outputs = runs[-1][0].state
    return Chain(tuple(runs), base, base + 2 * outputs + draw(st.integers(0, 10 * scale)), outputs)


def one_sub(*records: tuple[int, int, int, float], blocks: int = 1, forward: int = 0, state: int = 1, written: int = 1) -> Chain:
    """Blocks of a single sub-module from (inter, saved, back, seconds) tuples."""
    record = tuple(Record(i, s, b, t, t, f"r{k}") for k, (i, s, b, t) in enumerate(records))
    sub = Sub("only", written, (Forward(forward, 1.0, "f"),), record, True)
    return Chain(((Stage("stage", state, (sub,)), blocks),), 0, 2 * state, state)
