"""Updates that their last op adds itself: to rows or columns of a state, in place or not, the same as an update added afterwards."""

import pytest
import torch

from foldfit.ops import KERNELS
from foldfit.ops.onto import onto, residual

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
TRITON = KERNELS["triton"]
R, N, C = 5, 19, 24


def random(*shape: int, std: float = 1.0) -> torch.Tensor:
    return std * torch.randn(*shape, device=DEVICE)


def transition(x: torch.Tensor, name: str) -> list[torch.Tensor]:
    up, down = random(C, 48, std=C**-0.5), random(48, C, std=48**-0.5)
    norm = [x, 1 + random(C, std=0.1), random(C)]
    return [*norm, up, random(48), down, random(C)] if name == "relu_mlp" else [*norm, up, random(C, 48, std=C**-0.5), down]


def attention(x: torch.Tensor, name: str) -> list[torch.Tensor]:
    h, d = 3, 8
    weights = [random(C, h, d, std=C**-0.5) for _ in range(4)]
    given = [x, 1 + random(C, std=0.1), random(C), *weights, random(h, d), random(h, d, C, std=(h * d) ** -0.5), random(C)]
    return [*given, random(N, h, N), (torch.rand(R, N, device=DEVICE) > 0.2).to(x.dtype)]


def outer_product(x: torch.Tensor, name: str) -> list[torch.Tensor]:
    return [random(R, 8, 6), random(N, 9, 6), random(8, 9, C, std=0.1), random(C), torch.rand(R, N, device=DEVICE)]


def global_attention(x: torch.Tensor, name: str) -> list[torch.Tensor]:
    given = attention(x, name)
    one_head = [random(C, 8, std=C**-0.5) for _ in range(2)]
    return [*given[:4], *one_head, *given[6:10], given[11]]


HALF, FULL = torch.bfloat16, torch.float32
GIVEN = {
    "relu_mlp": transition, "swiglu": transition, "attention": attention, "global_attention": global_attention,
    "outer_product": outer_product,
}  # fmt: skip
ANYWHERE = {("attention", HALF), ("global_attention", FULL), ("outer_product", FULL)}
FLAT = {("relu_mlp", FULL), ("swiglu", HALF)}
"""Which ops add to rows, to columns and with dropout's factors, and which to rows that lie one after the other alone."""
NEVER = {("attention", FULL)}


def place(kind: str) -> torch.Tensor:
    """[R, N, C] of a larger state."""
    return random(R + 2, N, C)[1:-1] if kind == "rows" else random(N, R + 2, C)[:, 1:-1].transpose(0, 1)


def laid_as(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return torch.full_like(like, torch.nan).copy_(x)  # full_like keeps strides of rows and of columns


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("kind", ["rows", "columns"])
@pytest.mark.parametrize(("name", "dtype"), sorted(ANYWHERE | FLAT | NEVER, key=str), ids=str)
def test_onto(name, dtype, kind, dropout):
    torch.manual_seed(0)
    state = place(kind).to(dtype)
    given = [x.to(dtype) for x in GIVEN[name](state, name)]
    factors = (2 * torch.randint(0, 2, (1, N, C), device=DEVICE)).to(dtype) if dropout else None
    taken = (name, dtype) in (ANYWHERE if dropout or kind == "columns" else ANYWHERE | FLAT)
    with torch.no_grad():
        update = getattr(TRITON, name)(*given)
        source, target = laid_as(random(R, N, C), state), torch.full_like(state, torch.nan)
        expected = source.double() + update.double() * (1 if factors is None else factors.double())
        for before, after in ((source, target), (state, state)):  # the last one in place, of the very rows that it reads
            if after is state:
                expected += state.double() - source.double()
            with onto(after, before, factors) as end:
                u = getattr(TRITON, name)(*given)
                assert end.taken == taken and (u is after) == taken
                end.settle(u, TRITON.add)
            assert (after.double() - expected).norm() <= TOLERANCE[dtype] * expected.norm()
    assert residual(state.shape) is None


def test_nobody_else_takes_it():
    x = random(2, 3, 4)
    with onto(x, x, None) as end:
        assert residual((2, 3, 5)) is None
        assert residual((2, 3, 4)) is end
        end.take()
        assert residual((2, 3, 4)) is None
        with pytest.raises(AssertionError, match="not the whole update"):
            end.settle(2 * x, TRITON.add)
