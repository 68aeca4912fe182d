"""Bytes that stay for a whole run: parameters, inputs, gradients, optimizer state, workspaces."""

from collections.abc import Collection

from foldfit.cost.memory import parameter_bytes, parameter_tensors
from foldfit.cost.sizes import shapes_of
from foldfit.problem import ITEMSIZE, OPTIMIZER_STATE, Problem

STEP_COUNTER = 4
"""Bytes of Adam's step count, one a parameter tensor."""

SEED = 8
"""Bytes."""

CUBLAS_WORKSPACE = {"H100": 32 * 2**20, "H200": 32 * 2**20, "B200": 32 * 2**20}
"""Bytes that PyTorch gives each cuBLAS handle from its allocator, one handle a thread: 32 MiB from Hopper on."""

CUBLAS_WORKSPACE_BEFORE = 4096 * 1024 * 2 + 16 * 1024 * 8

LIBRARY_BUFFERS = 6 * 2**20
"""cuBLASLt's workspace, and the partial sums of layer norm's backward."""


def workspace_bytes(problem: Problem, handles: int = 2) -> int:
    """Of libraries, counted by the allocator: a handle of the caller's thread and one of autograd's, which keeps its own
    workspace once any backward has run in the process."""
    if problem.device_type == "cpu":
        return 0
    return handles * CUBLAS_WORKSPACE.get(problem.device, CUBLAS_WORKSPACE_BEFORE) + LIBRARY_BUFFERS


def resident_bytes(problem: Problem, align: int, hosted: Collection[str] = ()) -> tuple[dict[str, int], dict[str, int]]:
    """By name: what stays during the whole run, and what joins it when backward starts. Ranks that share a sample have their rows
    of inputs and outputs, and the whole masks. `hosted`: inputs that are on the host."""
    inputs: dict[str, int] = {}
    masks: dict[str, int] = {}
    outputs: dict[str, int] = {}
    parameters = steps = 0
    for stack in problem.stacks:
        spec, shapes = shapes_of(problem, stack)
        outputs = {name: problem.batch * shapes.own_elements(name) * problem.itemsize for name in spec.state}
        inputs |= outputs
        masks |= {name: problem.batch * shapes.elements(name) // shapes.channels[name] * problem.itemsize for name in spec.state}
        parameters += stack.blocks * sum(parameter_bytes(sub, ITEMSIZE[problem.parameters], align) for sub in spec.sub_modules)
        steps += stack.blocks * sum(parameter_tensors(sub) for sub in spec.sub_modules) * STEP_COUNTER
    resident = {
        "parameters": parameters,
        "inputs": sum(size for name, size in inputs.items() if name not in hosted),
        "masks": sum(masks.values()),
        "optimizer state": OPTIMIZER_STATE[problem.optimizer] * parameters + (steps if problem.optimizer == "adam" else 0),
        "workspace": workspace_bytes(problem),
        "dropout seed": max(SEED, align) if problem.dropout else 0,
    }
    if problem.gradients == "accumulated":
        resident["gradients so far"] = parameters
    if problem.launch == "graph":
        # Inputs and masks are copied to where the graph reads them, results out of it; the capture's stream has its own handles.
        workspace = workspace_bytes(problem, 1 if problem.mode == "infer" else 2)
        resident["graph"] = resident["inputs"] + resident["masks"] + sum(outputs.values()) + workspace
    if problem.mode == "infer":
        return resident, {}
    backward = {"gradients": parameters, "outputs": sum(outputs.values()), "output gradients": sum(outputs.values())}
    if problem.launch == "graph":
        # Alone, it works in the tensors that it reads; over ranks it relays them, into others.
        copies = 1 if problem.axial == 1 else 2
        backward["graph's gradients"] = parameters + copies * sum(outputs.values()) + sum(inputs.values())
    if len(problem.stacks) > 1:
        # The gradients of tensors that later stacks have wait for the end.
        later = {name for stack in problem.stacks[1:] for name in shapes_of(problem, stack)[0].state if name != "z"}
        backward["waiting gradients"] = sum(inputs[name] for name in later)
    return resident, backward
