"""What stays for a whole run."""

import msgspec
import pytest

from foldfit.cost.resident import CUBLAS_WORKSPACE, resident_bytes, workspace_bytes
from foldfit.problem import Problem, Stack

PROBLEM = Problem(
    stacks=(Stack("evoformer", 4, 64),), n_res=128, mode="infer", precision="bf16", parameters="bf16", device="H200", device_type="cuda",
    memory=2**35, launch="graph",
)  # fmt: skip


@pytest.mark.parametrize(("mode", "less"), [("infer", CUBLAS_WORKSPACE["H200"]), ("train", 0)])
def test_a_graph_without_a_backward_has_one_handle(mode, less):
    """Beside the tensors that it reads and writes: as large as the inputs, the masks, and the inputs again."""
    stays, _ = resident_bytes(msgspec.structs.replace(PROBLEM, mode=mode), 512)
    assert stays["graph"] == 2 * stays["inputs"] + stays["masks"] + stays["workspace"] - less
    assert stays["workspace"] == workspace_bytes(PROBLEM)  # of the caller's stream, where a backward may have run before


def test_what_is_launched_kernel_by_kernel_has_no_graph():
    assert "graph" not in resident_bytes(msgspec.structs.replace(PROBLEM, launch="eager"), 512)[0]
