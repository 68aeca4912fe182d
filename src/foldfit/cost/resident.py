"""Bytes that stay for a whole run: parameters, inputs, gradients, optimizer state, workspaces."""

from foldfit.cost.memory import parameter_bytes, parameter_tensors
from foldfit.cost.sizes import shapes_of
from foldfit.problem import ITEMSIZE, OPTIMIZER_STATE, Problem

STEP_COUNTER = 4
"""Bytes of Adam's step count, one a parameter tensor."""

WORKSPACE = {"cpu": 0, "cuda": 0}
"""Bytes of library workspaces that the allocator counts."""


def resident_bytes(problem: Problem, align: int) -> tuple[dict[str, int], dict[str, int]]:
    """By name: what stays during the whole run, and what joins it when backward starts."""
    inputs: dict[str, int] = {}
    masks: dict[str, int] = {}
    outputs: dict[str, int] = {}
    parameters = steps = 0
    for stack in problem.stacks:
        spec, shapes = shapes_of(problem, stack)
        outputs = {name: problem.batch * shapes.elements(name) * problem.itemsize for name in spec.state}
        inputs |= outputs
        masks |= {name: problem.batch * shapes.elements(name) // shapes.channels[name] * problem.itemsize for name in spec.state}
        parameters += stack.blocks * sum(parameter_bytes(sub, ITEMSIZE[problem.parameters], align) for sub in spec.sub_modules)
        steps += stack.blocks * sum(parameter_tensors(sub) for sub in spec.sub_modules) * STEP_COUNTER
    resident = {
        "parameters": parameters,
        "inputs": sum(inputs.values()),
        "masks": sum(masks.values()),
        "optimizer state": OPTIMIZER_STATE[problem.optimizer] * parameters + (steps if problem.optimizer == "adam" else 0),
        "workspace": WORKSPACE[problem.device_type],
    }
    if problem.mode == "infer":
        return resident, {}
    backward = {"gradients": parameters, "outputs": sum(outputs.values()), "output gradients": sum(outputs.values())}
    if len(problem.stacks) > 1:
        # The gradients of tensors that only later stacks have wait for the end.
        backward["waiting gradients"] = sum(size for name, size in outputs.items() if name != "z")
    return resident, backward


