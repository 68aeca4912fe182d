"""The updates whose other operand comes from all rows, where a precision or a mask is at its end."""

import pytest
import torch

from tests import small


@pytest.mark.parametrize("n_seq", [65, 66, 300])
@pytest.mark.parametrize("stack", ["evoformer", "extra_msa"])
def test_residues_that_no_sequence_has_both_of_are_numbers_in_fp16(n_seq, stack):
    """As in fp32: AlphaFold's factor is 1000 there."""
    torch.manual_seed(0)
    trunk = small.trunk(small.stack(stack, 1)).eval()
    name, mask = next(iter(trunk.specs[0].state)), torch.ones(n_seq, 6)
    mask[: n_seq // 2, 4:], mask[n_seq // 2 :, :3] = 0, 0
    state = {name: torch.randn(n_seq, 6, trunk.specs[0].widths[f"c_{name}"]), "z": torch.randn(6, 6, 32)}
    with torch.no_grad():
        exact = trunk.run({k: x.clone() for k, x in state.items()}, {name: mask})
        got = trunk.half().run({k: x.half() for k, x in state.items()}, {name: mask})
    for k, x in got.items():
        assert (x - exact[k]).norm() < 0.01 * exact[k].norm()
