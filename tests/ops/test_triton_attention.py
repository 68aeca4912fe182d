"""The Triton attention against fp64: outputs and every gradient, in Triton's interpreter where there is no GPU."""

import pytest
import torch

from foldfit.ops import triton_attention as ta

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = ["o", "dq", "dk", "dv", "dgate", "dbias"]


def reference(q, k, v, gate, bias, mask):
    """In the inputs' precision, the soft-max materialised. A padded key's logit is -1e9, as fp32 rounds it, and passes its gradient on."""
    logits = torch.einsum("rqhd,rkhd->rhqk", q, k) * q.shape[-1] ** -0.5
    if bias is not None:
        logits = logits + bias.transpose(0, 1)
    if mask is not None:
        padded = (mask == 0)[:, None, None, :].expand_as(logits)
        logits = logits + ((-1e9 - logits) * padded).detach()
    return gate.sigmoid() * torch.einsum("rhqk,rkhd->rqhd", logits.softmax(-1), v)


def make_inputs(r, n, h, d, dtype, has_bias, has_mask, seed=0):
    """q, k, v, gate as slices of one projection's output; the first row ends in padding, the last has a hole, row 1 is all padding."""
    torch.manual_seed(seed)
    projected = torch.randn(r, n, 4, h, d, device=DEVICE).to(dtype)
    bias = torch.randn(n, h, n, device=DEVICE).to(dtype) if has_bias else None
    mask = None
    if has_mask:
        mask = torch.ones(r, n, device=DEVICE, dtype=dtype)
        mask[0, n // 2 + 1 :] = 0
        mask[1] = 0
        mask[-1, 3] = 0
    return projected, bias, mask


def run(attention, projected, bias, mask, do, dtype):
    """The output and the gradients, as NAMES."""
    q, k, v, gate = (x.requires_grad_() for x in projected.detach().to(dtype).unbind(2))
    bias = None if bias is None else bias.detach().to(dtype).requires_grad_()
    o = attention(q, k, v, gate, bias, mask if mask is None else mask.to(dtype))
    o.backward(do.to(dtype))
    return [o.detach(), q.grad, k.grad, v.grad, gate.grad] + ([] if bias is None else [bias.grad])


def compare(r, n, h, d, precision, has_bias, has_mask, seed=0):
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    projected, bias, mask = make_inputs(r, n, h, d, DTYPES[precision], has_bias, has_mask, seed)
    do = torch.randn(r, n, h, d, device=DEVICE).to(DTYPES[precision])
    got = run(ta.attention, projected, bias, mask, do, DTYPES[precision])
    expected = run(reference, projected, bias, mask, do, torch.float64)
    for name, x, ref in zip(NAMES, got, expected, strict=False):
        error = ((x.double() - ref).norm() / ref.norm()).item()
        assert error <= ta.TOLERANCE[precision], f"{name}: {error:.2e}"  # NaN fails too


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """What a kernel leaves unwritten is NaN; and the precision class goes back to what it was."""
    empty, like = torch.empty, torch.empty_like

    def poisoned(x):
        return x.fill_(float("nan")) if x.is_floating_point() else x.fill_(-7)

    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: poisoned(empty(*args, **kwargs)))
    monkeypatch.setattr(torch, "empty_like", lambda *args, **kwargs: poisoned(like(*args, **kwargs)))
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("has_mask", [True, False])
def test_odd_tokens(precision, has_bias, has_mask):
    compare(3, 17, 2, 16, precision, has_bias, has_mask)


@pytest.mark.parametrize("n", [33, 64, 70])
@pytest.mark.parametrize("d", [8, 24, 32])
def test_several_tiles(n, d):
    compare(3, n, 2, d, "bf16", True, True)


def test_widest_head():
    compare(2, 33, 1, 64, "fp16", True, True)


def test_one_row_one_token():
    """The soft-max of one logit is 1, whatever it is."""
    projected, bias, _ = make_inputs(1, 1, 1, 8, torch.float32, True, False)
    do = torch.randn(1, 1, 1, 8, device=DEVICE)
    o, dq, dk, dv, dgate, dbias = run(ta.attention, projected, bias, None, do, torch.float32)
    v, gate = projected[:, :, 2], projected[:, :, 3].sigmoid()
    for x, expected in [(o, gate * v), (dv, gate * do), (dgate, do * v * gate * (1 - gate)), (dq, 0 * dq), (dk, 0 * dk), (dbias, 0 * bias)]:
        torch.testing.assert_close(x, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("axis", [1, 2])
def test_rows_may_be_columns(axis):
    """A transposed projection, and a transposed mask, are read where they are."""
    torch.set_float32_matmul_precision("highest")
    projected, _, mask = make_inputs(18, 17, 2, 8, torch.float32, False, True)
    if axis == 2:
        projected, mask = projected.transpose(0, 1), mask.t()
    o = ta.attention(*projected.unbind(2), None, mask)
    torch.testing.assert_close(o, reference(*projected.unbind(2), None, mask), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [64, 70])
@pytest.mark.parametrize("has_mask", [True, False])
def test_products_ahead(n, has_mask):
    """A tile's option may change no number but by rounding."""
    projected, bias, mask = make_inputs(3, n, 2, 16, torch.bfloat16, True, has_mask)
    q, k, v, gate = projected.unbind(2)
    o, ahead = (ta.attention_forward(q, k, v, gate, bias, mask, tile=ta.Tile(32, 16, 4, 2, ahead=x))[0] for x in (False, True))
    torch.testing.assert_close(ahead, o, rtol=1e-2, atol=1e-3)


def test_row_without_keys_is_uniform():
    """Exactly what fp32 arithmetic with -1e9 gives."""
    torch.set_float32_matmul_precision("highest")
    projected, bias, _ = make_inputs(2, 17, 2, 8, torch.float32, True, False)
    q, k, v, gate = projected.unbind(2)
    o = ta.attention(q, k, v, gate, bias, torch.zeros(2, 17, device=DEVICE))
    torch.testing.assert_close(o, gate.sigmoid() * v.mean(1, keepdim=True))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy, of the overflow that is the point here
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("shift", [-120, 120])
def test_extreme_logits(precision, shift):
    """Beyond what exp can hold in fp32: the tile is run again with a running maximum, and a shift of a row's logits changes nothing."""
    torch.set_float32_matmul_precision("highest")
    dtype = DTYPES[precision]
    projected, bias, mask = make_inputs(2, 17, 2, 8, dtype, True, True)
    bias[5] += shift
    bias[6, :, 2] += 150
    do = torch.randn(2, 17, 2, 8, device=DEVICE).to(dtype)
    got = run(ta.attention, projected, bias, mask, do, dtype)
    for name, x, ref in zip(NAMES, got, run(reference, projected, bias, mask, do, torch.float64), strict=True):
        assert (x.double() - ref).norm() <= ta.TOLERANCE[precision] * 2 * ref.norm(), name


def test_rows_in_groups(monkeypatch):
    """dbias summed in groups of rows, the last one smaller."""
    from foldfit.ops import triton_attention_backward as tb

    monkeypatch.setattr(tb, "row_groups", lambda r, owners: 3)
    compare(5, 17, 2, 8, "fp32", True, True)


def test_saves_nothing_without_gradients():
    projected, bias, mask = make_inputs(2, 17, 2, 8, torch.float32, True, True)
    projected.requires_grad_()
    with torch.no_grad():
        o = ta.attention(*projected.unbind(2), bias, mask)
    assert o.grad_fn is None
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        ta.attention(*projected.unbind(2), bias, mask)
    shared = projected.untyped_storage().data_ptr()
    own = [x for x in kept if x.untyped_storage().data_ptr() not in (shared, bias.untyped_storage().data_ptr())]
    assert sorted(tuple(x.shape) for x in own) == [(2,), (2, 2, 17), (2, 17), (2, 17, 2, 8)]  # lead, lse, mask, o


def test_runs_repeat():
    projected, bias, mask = make_inputs(3, 33, 2, 8, torch.bfloat16, True, True)
    do = torch.randn(3, 33, 2, 8, device=DEVICE)
    first, second = (run(ta.attention, projected, bias, mask, do, torch.bfloat16) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_refusals():
    q = torch.zeros(2, 4, 2, 8, device=DEVICE)
    with pytest.raises(NotImplementedError, match="head dim of 8 to 64"):
        x = torch.zeros(2, 4, 2, 128, device=DEVICE)
        ta.attention(x, x, x, x, None, None)
    with pytest.raises(NotImplementedError, match="contiguous last dim"):
        ta.attention(q.transpose(2, 3), *[torch.zeros(2, 4, 8, 2, device=DEVICE)] * 3, None, None)
    with pytest.raises(ValueError, match=r"bias must be \[4, 2, 4\]"):
        ta.attention(q, q, q, q, torch.zeros(2, 4, 4, device=DEVICE), None)
    with pytest.raises(ValueError, match=r"mask must be \[2, 4\]"):
        ta.attention(q, q, q, q, None, torch.zeros(4, 2, device=DEVICE))
