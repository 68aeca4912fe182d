"""Pieces that go around: every rank computes with the piece at hand while it passes it on to the next rank and gets another from the
one before (as keys and values in Liu et al. 2023, "Ring Attention with Blockwise Transformers")."""

from collections.abc import Callable

from torch import Tensor

from foldfit.runtime.ranks import Ranks, bounds

Tensors = tuple[Tensor, ...]
Visit = Callable[[int, int, Tensors], Tensors]
"""(start, stop, the tensors' rows start..stop of all) -> their gradients by this rank, or () where none are wanted."""


def pieces_of(total: int, size: int, rows: int) -> list[list[tuple[int, int]]]:
    """Of each turn, every rank's piece as (start, stop) of all rows; a rank with fewer rows may have nothing in the last one."""
    spans = bounds(total, size)
    longest = spans[0][1] - spans[0][0]
    return [[(min(a + at, b), min(a + at + rows, b)) for a, b in spans] for at in range(0, longest, rows)]


def travel(
    ranks: Ranks, own: Tensors, total: int, rows: int, visit: Visit, home: Callable[[int, int, Tensors], None] | None = None
) -> None:
    """`visit` on every piece of `rows` rows of all ranks' `own` [rows at hand, ...], `total` rows in all; all ranks must come here.

    The gradients go on behind the pieces, each rank adding its own to those that arrive, and end where their piece began:
    `home` gets them, summed over ranks.
    """
    first = ranks.own(total)[0]
    for spans in pieces_of(total, ranks.size, rows):
        start, stop = spans[ranks.rank]
        at_hand, behind = tuple(x[start - first : stop - first] for x in own), None
        for turn in range(ranks.size):
            coming = spans[(ranks.rank - turn - 1) % ranks.size]
            passed = ranks.pass_on(at_hand, coming[1] - coming[0]) if turn + 1 < ranks.size else None
            gradients = visit(*spans[(ranks.rank - turn) % ranks.size], at_hand)
            if home:
                others: Tensors = behind.wait() if behind else ()
                for mine, theirs in zip(gradients, others, strict=bool(others)):
                    mine.add_(theirs)
                del others
                behind = ranks.pass_on(gradients, coming[1] - coming[0])
                del gradients
            at_hand = passed.wait() if passed else ()
            del passed
        if home and behind:
            home(start, stop, behind.wait())
