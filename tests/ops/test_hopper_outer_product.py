"""What of the outer product mean's kernel for NVIDIA Hopper can be tested without one: that it compiles, for what, and what surrounds it.
On one: its numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton.experimental.gluon")

from foldfit.ops import hopper_outer_product as hopper
from foldfit.ops import triton_outer_product as to
from foldfit.ops.onto import onto
from foldfit.stacks.kernels import MANY_SEQUENCES
from tests.ops.compile_hopper_outer_product import CASES
from tests.ops.hopper import SHARED, on_hopper, shared_bytes
from tests.ops.test_triton_outer_product import TOLERANCE

BF16 = torch.bfloat16
SIZES = [
    *((1, 1, 1), (37, 101, 101), (128, 256, 256), (192, 72, 90), (256, 33, 130)),
    *((300, 72, 90), (384, 40, 5), (432, 45, 77), (512, 136, 101)),
]
"""Every number of chunks of sequences."""


def inputs_of(n, r, rows, device="cuda"):
    """Updates of order 1."""
    torch.manual_seed(n + r)
    shapes = {"a": (r, 32, n), "b": (rows, 32, n), "w": (32, 32, 128), "w_b": (128,)}
    widths = {"a": 1, "b": n**0.5, "w": 32, "w_b": 1}
    found = {name: (torch.randn(shape, device=device) / widths[name]).to(BF16) for name, shape in shapes.items()}
    return found | {"scale": (torch.rand(r, rows, device=device) + 0.5).to(BF16)}


def update_of(a, b, w, w_b, scale):
    """In fp64; a row of residues at a time, whose outer products fit."""
    b, w = b.double(), w.double().flatten(0, 1)
    rows = [torch.einsum("on,Rpn->Rop", each.double(), b).flatten(1) @ w for each in a]
    return (torch.stack(rows) + w_b.double()) * scale.double()[..., None]


def poisoned(*shape):
    return torch.full(shape, torch.nan, device="cuda", dtype=BF16)


def agree(got, expected):
    """In every pair."""
    off = (got.double() - expected).norm(dim=2) / expected.norm(dim=2)
    assert off.max() <= TOLERANCE["bf16"]  # NaN is not


def run(data, target, source=None, factors=None):
    assert hopper.fits(to.aligned(data["a"]), to.aligned(data["b"]), data["w"])
    with torch.no_grad(), onto(target, source, factors) as end:
        assert to.outer_product(*data.values()) is target and end.taken


def test_compiles():
    sizes = shared_bytes("compile_hopper_outer_product")
    assert len(sizes) == len(CASES)
    assert all(0 < size <= SHARED for size in sizes)


def test_fits_nothing_else():
    """What TMA cannot address, other widths and precisions, more sequences than fit on chip, none, no rows."""
    a, b, w = (torch.zeros(shape, dtype=BF16) for shape in ((5, 32, 48), (3, 32, 48), (32, 32, 128)))
    assert hopper.fits(a, b, w)
    assert hopper.fits(a[1:2], b[1:], w)
    assert not hopper.fits(a.float(), b.float(), w.float())
    assert not hopper.fits(a.half(), b.half(), w.half())
    assert not hopper.fits(a[:, :16].contiguous(), b, w[:16])
    assert not hopper.fits(a, b[:, :16].contiguous(), w[:, :16].contiguous())
    assert not hopper.fits(a, b, w[..., :64].contiguous())
    assert not hopper.fits(a, b, w.transpose(0, 1))
    assert not hopper.fits(a[..., :40], b[..., :40], w)
    assert not hopper.fits(a[..., :44].contiguous(), b[..., :44].contiguous(), w)
    assert not hopper.fits(torch.zeros(a.numel() + 1, dtype=BF16)[1:].view(a.shape), b, w)
    assert not hopper.fits(*(torch.zeros(3, 32, 528, dtype=BF16),) * 2, w)
    assert not hopper.fits(a[:0], b, w)
    assert not hopper.fits(a, b[:0], w)
    assert not hopper.fits(a[..., :0].contiguous(), b[..., :0].contiguous(), w)


@given(st.integers(1, hopper.LONGEST))
def test_what_lies_on_chip(n):
    """There is room for it, for all sequences, whole steps of a or halves, and two steps where groups share a."""
    (along_i, along_j), (a, w), chunks = hopper.tile_of(n), hopper.slots_of(n), hopper.chunks_of(n)
    sequences = 2 * hopper.K.value
    held = chunks * along_j * hopper.Y.value * 32 * sequences + a * along_i * 2 * hopper.X.value * sequences + w * 2 * 32 * 128 * 2
    assert along_i * along_j == 2 and held <= hopper.ROOM < SHARED
    assert n <= chunks * hopper.K.value and 1 <= w <= hopper.AHEAD
    assert (a % chunks == 0 and a <= hopper.AHEAD * chunks) if a >= chunks else chunks == 2 * a
    assert along_j == 1 or a >= 2 * chunks


def test_the_check_of_kernels_knows_where_it_turns():
    ways = [(hopper.tile_of(n), hopper.slots_of(n)[0] < hopper.chunks_of(n)) for n in range(1, hopper.LONGEST + 1)]
    turns = [n + 1 for n in range(1, hopper.LONGEST) if ways[n - 1] != ways[n]]
    assert tuple(("bf16", n) for n in (*turns, hopper.LONGEST + 1)) == MANY_SEQUENCES


@pytest.mark.parametrize(("n", "by_hopper"), [(5, True), (512, True), (513, False)])
def test_runs_where_it_fits(monkeypatch, n, by_hopper):
    """With sequences filled up, into the residual under way."""

    class Plain:
        def __getitem__(self, grid):
            return lambda *args, **options: called.append("plain")

    def forward(a, b, w, w_b, scale, place):
        called.append("hopper")
        assert a.shape == (3, 32, -(-n // 16) * 16) and place[:3] == (target, target, None)

    called, target = [], torch.zeros(3, 2, 128, dtype=BF16)
    monkeypatch.setattr(to, "on_hopper", lambda x: True)
    monkeypatch.setattr(to, "forward_kernel", Plain())
    monkeypatch.setattr(hopper, "forward", forward)
    with torch.no_grad(), onto(target, target, None):
        assert to.outer_product(*inputs_of(n, 3, 2, "cpu").values()) is target
    assert called == ["hopper" if by_hopper else "plain"]


@on_hopper
@pytest.mark.parametrize(("n", "r", "rows"), SIZES)
def test_numbers(n, r, rows):
    """Residues that no tile divides, whole eights of them and others, more tiles than programs; where nothing was written is NaN."""
    data = inputs_of(n, r, rows)
    source, target = torch.randn(r, rows, 128, device="cuda").to(BF16), poisoned(r, rows, 128)
    expected = update_of(**data)
    run(data, target, source)
    agree(target, source.double() + expected)
    with torch.no_grad():
        agree(to.outer_product(*data.values()), expected)


@on_hopper
@pytest.mark.parametrize("n", [128, 512])
@pytest.mark.parametrize("r", [67, 72])
def test_an_update_is_added_where_it_was_read(n, r):
    """To columns of a larger tensor, times factors, and to nothing around them."""
    rows, data = 101, inputs_of(n, r, 101)
    whole = poisoned(rows + 9, r + 5, 128)
    inner = whole[4 : 4 + rows, 3 : 3 + r]
    target = inner.transpose(0, 1)
    target.copy_(torch.randn(r, rows, 128, device="cuda"))
    factors = (torch.rand(1, rows, 128, device="cuda") + 0.5).to(BF16)
    expected = target.double() + update_of(**data) * factors.double()
    run(data, target, target, factors)
    agree(target, expected)
    inner.fill_(torch.nan)
    assert whole.isnan().all()


@on_hopper
@pytest.mark.parametrize("apart", [0, 1])
def test_pairs_far_apart(apart):
    """Residues whose pairs lie 128 MiB apart: more than 32 bits of elements."""
    r, data = 40, inputs_of(128, 40, 40)
    whole = torch.empty(r << 26, device="cuda", dtype=BF16)
    strides = [128, 128, 1]
    strides[apart] = 1 << 26
    target = whole.as_strided((r, r, 128), strides)
    target.copy_(torch.randn(r, r, 128, device="cuda"))
    expected = target.double() + update_of(**data)
    run(data, target, target)
    agree(target, expected)


@on_hopper
def test_the_same_every_time():
    """Groups wait for what they read, and for nothing else."""
    data, outs = inputs_of(128, 512, 512), []
    for _ in range(6):
        outs.append(poisoned(512, 512, 128))
        run(data, outs[-1], None)
    assert not outs[0].isnan().any() and all(torch.equal(out, outs[0]) for out in outs)
