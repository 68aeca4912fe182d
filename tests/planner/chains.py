"""Random small chains for the planner's tests, in bytes so few that every byte is a slot and nothing is rounded."""

from hypothesis import strategies as st

from foldfit.planner.table import Chain, Forward, Record, Stage, Sub

SECONDS = st.integers(1, 40)


@st.composite
def subs(draw: st.DrawFn, options: int, largest: int) -> Sub:
    sizes = st.integers(0, largest)
    forward = tuple(Forward(draw(sizes), draw(SECONDS), f"f{i}") for i in range(draw(st.integers(1, options))))
    record = []
    for i in range(draw(st.integers(1, options))):
        saved = draw(sizes)
        record.append(Record(saved + draw(sizes), saved, saved + draw(sizes), draw(SECONDS), draw(SECONDS), f"r{i}"))
    return Sub(f"sub{draw(st.integers(0, 10**6))}", draw(sizes), forward, tuple(record), draw(st.booleans()))


@st.composite
def stages(draw: st.DrawFn, most_subs: int = 2, options: int = 3, largest: int = 9, entry: bool = False) -> Stage:
    state = draw(st.integers(0, largest))
    held = draw(st.none() | st.integers(0, state)) if entry else None
    parts = [draw(subs(options, largest)) for _ in range(draw(st.integers(1, most_subs)))]
    named = tuple(Sub(f"s{j}", p.written, p.forward, p.record, p.final) for j, p in enumerate(parts))
    return Stage(f"stage{draw(st.integers(0, 10**6))}", state, named, held)


@st.composite
def chains(draw: st.DrawFn, most_blocks: int = 4, most_runs: int = 3, **sizes: int) -> Chain:
    runs = []
    left = most_blocks
    for i in range(draw(st.integers(1, most_runs))):
        if left < 1:
            break
        count = draw(st.integers(1, left))
        runs.append((draw(stages(entry=i > 0, **sizes)), count))
        left -= count
    base = draw(st.integers(0, 20))
    outputs = runs[-1][0].state
    return Chain(tuple(runs), base, base + 2 * outputs + draw(st.integers(0, 10)), outputs)
