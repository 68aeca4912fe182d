"""Collectives that the host calls for a sub-module, where it launches kernel by kernel: each takes it COLLECTIVE_CALL seconds."""

from foldfit.cost.channels import channel_calls
from foldfit.cost.memory import Setting
from foldfit.cost.pieces import turns
from foldfit.planner.layouts import Passage
from foldfit.plans import Choice
from foldfit.stacks import SubModuleSpec


def calls(choice: Choice, sub: SubModuleSpec, passage: Passage, setting: Setting) -> tuple[int, int]:
    """Forward and backward: the relays around it, and of each tensor that ranks share its way, and its gradient's."""
    tensors, ranks = len(sub.shared), setting.shapes.ranks
    gradients = tensors - sub.shared_masks
    if choice.channels:
        forward, back = channel_calls(sub, setting), 0
    elif choice.piece_rows:
        slices, visits = turns(setting, sub, choice)
        forward = slices * (visits - visits // ranks) * tensors
        back = forward + slices * visits * gradients
    else:
        forward = tensors
        back = gradients + (forward if choice.recompute else 0)
    return passage.calls + setting.batch * forward, passage.back_calls + setting.batch * back
