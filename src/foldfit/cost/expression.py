"""Numbers of the expressions in specs: "r n c + f32 2 r n" under sizes is bytes, "r n c, c u -> r n u" FLOPs."""

from functools import cache
from math import ceil, prod

Sizes = dict[str, int]
"""Role letter -> size (stacks/spec.py has the letters)."""


@cache
def terms(expression: str) -> tuple[tuple[float, bool, tuple[str, ...]], ...]:
    """(count, is it fp32 whatever the storage, role letters) of every term."""
    out = []
    for term in expression.split("+"):
        words = term.split()
        if not words:
            continue
        f32 = words[0] == "f32"
        words = words[f32:]
        count = 1.0
        if words[0][0].isdigit():
            count, words = float(words[0]), words[1:]
        out.append((count, f32, tuple(words)))
    return tuple(out)


def nbytes(expression: str, sizes: Sizes, itemsize: int, align: int = 1) -> int:
    """Bytes of all tensors of the expression, each rounded up to `align`."""
    total = 0
    for count, f32, letters in terms(expression):
        size = (4 if f32 else itemsize) * prod([sizes[x] for x in letters])
        total += ceil(count * (-(-size // align) * align))
    return total


@cache
def einsum_letters(equation: str) -> tuple[str, ...]:
    return tuple(sorted(set(equation.replace(",", " ").replace("->", " ").split())))


def matmul_flops(equation: str, sizes: Sizes) -> int:
    """Two per multiply-add: 2 * the product of every distinct letter."""
    return 2 * prod([sizes[x] for x in einsum_letters(equation)])
