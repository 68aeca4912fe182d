"""fp32 as NVIDIA's matrix units multiply it from Hopper on, three tf32 products: within the tolerances of fp32, which one is not.

Triton's interpreter multiplies in fp32; here its products are made of parts as "tf32x3" makes them.
"""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foldfit.ops import triton_attention
from tests.ops import test_triton_attention as attention
from tests.ops import test_triton_global as global_
from tests.ops import test_triton_outer_product as outer
from tests.ops import test_triton_transition as transition
from tests.ops import test_triton_triangle as triangle

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU does it itself, and this is Triton's interpreter")

CASES: dict[str, Callable[[], None]] = {
    "attention": lambda: attention.compare(3, 70, 2, 32, "fp32", True, True),
    "attention, a wide head": lambda: attention.compare(3, 33, 1, 64, "fp32", True, False),
    "ReLU": lambda: transition.test_transition((3, 11), 24, 48, "relu_mlp", "fp32"),
    "SwiGLU": lambda: transition.test_transition((3, 11), 24, 48, "swiglu", "fp32"),
    "triangle": lambda: triangle.test_triangle_update(3, 17, 24, 20, True, "fp32"),
    "gated": lambda: triangle.test_gated_linear(3, 17, 24, 20, True, "fp32"),
    "outer product": lambda: outer.test_outer_product(9, 7, 19, 8, 8, 16, "fp32"),
    "masked linear": lambda: outer.test_masked_linear(3, 19, 24, 8, "fp32"),
    "global": lambda: global_.test_global_attention(3, 17, 24, 4, 6, "fp32"),
}


def nearest_tf32(x: np.ndarray) -> np.ndarray:
    return ((x.view(np.int32) + 0x1000) & np.int32(-0x2000)).view(np.float32)


def multiply_by(monkeypatch: pytest.MonkeyPatch, parts: int) -> list[int]:
    """fp32 products by one or two parts of an operand; returns where they are counted."""
    from triton.runtime import interpreter

    whole, count = interpreter.InterpreterBuilder.create_dot, [0]

    def create_dot(self, a, b, d, *rest):
        if a.data.dtype != np.float32:
            return whole(self, a, b, d, *rest)
        count[0] += 1
        first, other = nearest_tf32(a.data), nearest_tf32(b.data)
        out = np.matmul(first, other)
        if parts == 2:
            out += np.matmul(nearest_tf32(a.data - first), other) + np.matmul(first, nearest_tf32(b.data - other))
        return interpreter.TensorHandle(out + d.data, d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
    return count


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(triangle.folded, "TOKENS_EACH", 40)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("name", CASES)
def test_three_products_are_as_good_as_fp32(name, monkeypatch):
    count = multiply_by(monkeypatch, 2)
    CASES[name]()
    assert count[0] > 0


def test_one_is_not(monkeypatch):
    multiply_by(monkeypatch, 1)
    with pytest.raises(AssertionError, match="e-0"):
        CASES["attention"]()


@pytest.mark.parametrize(("card", "room", "word"), [("H100", 232448, "tf32x3"), ("A100", 166912, "ieee"), ("GeForce", 101376, "ieee")])
def test_cards_without_the_room_multiply_otherwise(monkeypatch, card, room, word):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: SimpleNamespace(name=card, shared_memory_per_block_optin=room))
    assert triton_attention.whole_fp32.__wrapped__() == word
