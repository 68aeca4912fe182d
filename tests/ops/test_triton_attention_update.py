"""The attentions' whole update and the bias from the pair against fp64: outputs and every gradient."""

import pytest
import torch

from foldfit.ops import KERNELS
from foldfit.ops import triton_attention_gate as gate
from foldfit.ops.unread import unread

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 3e-2, torch.float16: 4e-3}


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """What a kernel leaves unwritten is NaN."""
    empty, like = torch.empty, torch.empty_like

    def poisoned(x):
        return x.fill_(float("nan")) if x.is_floating_point() else x.fill_(-7)

    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: poisoned(empty(*args, **kwargs)))
    monkeypatch.setattr(torch, "empty_like", lambda *args, **kwargs: poisoned(like(*args, **kwargs)))


def random(*shape, mean=0.0, std=1.0):
    return mean + std * torch.randn(*shape, device=DEVICE)


def results(function, leaves, rest, dtype, cotangent):
    leaves = [x if x is None else x.to(dtype).requires_grad_() for x in leaves]
    out = function(*leaves, *(x.to(dtype) for x in rest))
    return out, *torch.autograd.grad(out, [x for x in leaves if x is not None], cotangent.to(dtype))


def compare(name, leaves, rest, dtype, cotangent):
    """Of one field of `Ops`, from what storage in `dtype` leaves of the leaves."""
    torch.set_float32_matmul_precision("highest")
    leaves, rest, cotangent = ([x if x is None else x.to(dtype) for x in xs] for xs in (leaves, rest, [cotangent]))
    got = results(getattr(KERNELS["triton"], name), leaves, rest, dtype, *cotangent)
    expected = results(getattr(KERNELS["reference"], name), leaves, rest, torch.float64, *cotangent)
    for i, (x, x64) in enumerate(zip(got, expected, strict=True)):
        assert x.shape == x64.shape
        assert (x.double() - x64).norm() <= TOLERANCE[dtype] * x64.norm(), i
    with torch.no_grad():
        assert torch.equal(getattr(KERNELS["triton"], name)(*leaves, *rest), got[0])


def attention_leaves(r, n, c, h, d, biased, has_bias):
    weights = [random(c, h, d, std=c**-0.5) for _ in range(4)]
    output_w = random(h, d, c, std=(h * d) ** -0.5)
    biases = (random(h, d), random(c)) if biased else (None, None)
    x, scale, offset = random(r, n, c, mean=0.5), random(c, mean=1, std=0.3), random(c)
    return [x, scale, offset, *weights, biases[0], output_w, biases[1], random(n, h, n) if has_bias else None]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("sizes", "biased", "has_bias"), [((3, 17, 24, 2, 8), True, True), ((2, 70, 16, 3, 11), False, False)], ids=str)
def test_update(dtype, sizes, biased, has_bias):
    torch.manual_seed(0)
    r, n, c, *_ = sizes
    mask = torch.ones(r, n, device=DEVICE)
    mask[0, n // 2 :] = 0
    compare("attention", attention_leaves(*sizes, biased, has_bias), [mask], dtype, random(r, n, c))


def test_heads_in_blocks(monkeypatch):
    """Programs that share their tokens, each with some of the heads, the last block with fewer; whole tiles; several parts."""
    monkeypatch.setattr(gate, "COLUMNS", 32)
    monkeypatch.setattr(gate, "TOKENS_EACH", 16)
    monkeypatch.setattr(gate, "TOKENS", 16)
    torch.manual_seed(1)
    leaves, mask = attention_leaves(2, 32, 64, 3, 16, True, False), torch.ones(2, 32, device=DEVICE)
    compare("attention", leaves, [mask], torch.bfloat16, random(2, 32, 64))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(3, 19, 24, 2), (9, 70, 40, 5)], ids=str)
def test_pair_bias(dtype, shape):
    torch.manual_seed(0)
    r, n, c, h = shape
    compare("pair_bias", [random(r, n, c, mean=1), random(c, mean=1, std=0.3), random(c), random(c, h)], [], dtype, random(r, h, n))


def test_what_is_kept_is_let_go_of_once():
    """Backward frees the projections before it is done, so that it runs once."""
    leaves = [x if x is None else x.requires_grad_() for x in attention_leaves(2, 5, 16, 1, 8, True, False)]
    out = KERNELS["triton"].attention(*leaves, torch.ones(2, 5, device=DEVICE)).sum()
    out.backward()
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()


@pytest.mark.parametrize("name", ["attention", "pair_bias"])
def test_rows_may_be_columns(name):
    """Rows, and their mask, are read where they lie, and give the same to the bit."""
    torch.manual_seed(2)
    r, n, c, h, d = 4, 7, 16, 2, 8
    leaves, rest = attention_leaves(r, n, c, h, d, True, False), [(torch.rand(r, n, device=DEVICE) > 0.2).float()]
    if name == "pair_bias":
        leaves, rest = [*leaves[:3], random(c, h)], []
    cotangent = random(*((r, n, c) if name == "attention" else (r, h, n)))
    turned = [leaves[0].transpose(0, 1).contiguous().transpose(0, 1), *leaves[1:]]
    function = getattr(KERNELS["triton"], name)
    here = results(function, leaves, rest, torch.float32, cotangent)
    there = results(function, turned, [x.t().contiguous().t() for x in rest], torch.float32, cotangent)
    assert not turned[0].is_contiguous()
    assert all(torch.equal(x, y) for x, y in zip(here, there, strict=True))


def test_unread_updates_have_their_gradients():
    torch.manual_seed(3)
    leaves, mask, cotangent = attention_leaves(2, 5, 16, 1, 8, True, True), torch.ones(2, 5, device=DEVICE), random(2, 5, 16)
    read = results(KERNELS["triton"].attention, leaves, [mask], torch.float32, cotangent)
    with unread():
        out = results(KERNELS["triton"].attention, leaves, [mask], torch.float32, cotangent)
    assert out[0].isnan().all()
    assert all(torch.equal(x, y) for x, y in zip(read[1:], out[1:], strict=True))


def test_a_bias_of_channels_apart_is_refused():
    x = random(2, 8, 3).mT
    with pytest.raises(NotImplementedError, match="side by side"), torch.no_grad():
        KERNELS["triton"].pair_bias(x, random(8), random(8), random(8, 2))
