"""A triangle multiplication by Triton reads rows and columns where they lie: the reference's numbers, whatever the slices and pieces."""

from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch

from foldfit.cost.channels import channel_bytes
from foldfit.cost.memory import Setting
from foldfit.cost.pieces import piece_bytes
from foldfit.cost.sizes import Shapes, shapes_of
from foldfit.plans import Choice
from foldfit.problem import Problem, Stack
from foldfit.profile.kernel_check import Case, given
from foldfit.runtime import apply
from foldfit.runtime.apply import Call
from foldfit.runtime.meter import TensorMeter
from foldfit.runtime.parameters import Gradients
from foldfit.runtime.ranks import Ranks
from foldfit.stacks.pair import triangle_multiplication

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
N_RES, C_Z, HIDDEN = 7, 24, 20


@dataclass
class Passed:
    tensors: tuple[torch.Tensor, ...]
    sent: tuple[torch.Tensor, ...] = ()

    def wait(self) -> tuple[torch.Tensor, ...]:
        tensors, self.tensors, self.sent = self.tensors, (), ()
        return tensors


class RingOfOne(Ranks):
    """What the only rank passes on comes to itself."""

    def pass_on(self, tensors, rows):
        return Passed(tensors)


class RingOfTwo(Ranks):
    """The first of two ranks, alone: what it passes on never arrives, and what comes is zero."""

    size, rank = 2, 0  # type: ignore[assignment]

    def pass_on(self, tensors, rows):
        assert all(x.is_contiguous() for x in tensors)  # as NCCL wants them
        return Passed(tuple(x.new_zeros(rows, *x.shape[1:]) for x in tensors), tensors)


def results(axis: int, choice: Choice) -> list[torch.Tensor]:
    """The update, in place and recorded; the gradients of the pair and of the parameters."""
    sub = triangle_multiplication("x", "", ("z", axis), C_Z, HIDDEN)
    module, state, masks, grads = given(Case(sub, choice.kernel, "fp32", {"z": (N_RES, N_RES)}, {"z": C_Z}), DEVICE)
    call = Call(module, choice, masks, ranks=RingOfOne(), total=N_RES)
    target = state["z"].clone()
    apply.forward(call, {"z": target}, target)
    version, kept = apply.record(call, state)
    gradients = Gradients(list(module.parameters()))
    apply.backward(call, state, kept, grads, gradients)
    return [target - state["z"], version - state["z"], grads["z"], gradients.flat]


@cache
def expected(axis: int) -> list[torch.Tensor]:
    return results(axis, Choice("reference", N_RES, N_RES))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("rows", "share_rows", "recompute", "pieces"), [(3, 2, False, 0), (2, 3, True, 0), (3, 7, True, 2)])
def test_a_triangle_multiplication_by_rows_and_by_columns(axis, rows, share_rows, recompute, pieces):
    got = results(axis, Choice("triton", rows, share_rows, recompute, piece_rows=pieces))
    for ours, theirs in zip(got, expected(axis), strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


class Alone(Ranks):
    """What the only rank exchanges it has, in as many parts as are asked for."""

    def all_to_all(self, works, received, sent):
        assert all(x.is_contiguous() for x in (*received, *sent))
        for x, y in zip(received, sent, strict=True):
            x.copy_(y.view(x.shape))


@pytest.mark.parametrize("at_a_time", [2**28, 999])
@pytest.mark.parametrize("held", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kernel", ["reference", "triton"])
def test_channels_are_combined_of_rows_and_of_columns(monkeypatch, kernel, axis, held, at_a_time):
    """Whichever the ranks hold of the pair."""
    monkeypatch.setattr("foldfit.problem.RELAY_BYTES", at_a_time)
    sub = triangle_multiplication("x", "", ("z", axis), C_Z, HIDDEN)
    module, state, masks, _ = given(Case(sub, kernel, "fp32", {"z": (N_RES, N_RES)}, {"z": C_Z}), DEVICE)
    choice = Choice(kernel, N_RES, N_RES, layout=f"z{held}", channels=True)
    target = state["z"].clone()
    with TensorMeter() as meter:
        apply.forward(Call(module, choice, masks, ranks=Alone(), total=N_RES), {"z": target}, target)
    assert (target - state["z"] - expected(axis)[0]).norm() <= 1e-5 * expected(axis)[0].norm()
    setting = Setting(Shapes({"z": (N_RES, N_RES)}, {"z": C_Z}, layout={"z": held}), 4)
    promised = channel_bytes(sub, sub.kernels[kernel]["cuda"], choice, setting).forward
    assert 0.8 * promised <= meter.peak <= promised


@pytest.mark.parametrize("wider", [1, 2])
def test_pieces_keep_what_is_prepared(wider):
    """However wide the product is beside the pair."""
    problem = Problem(stacks=(Stack("evoformer", 1, 1, {"c_z": 16, "c_hidden_mul": 16 * wider}),), n_res=12, memory=1)
    spec, shapes = shapes_of(problem, problem.stacks[0])
    sub = next(s for s in spec.sub_modules if s.name == "triangle_multiplication_outgoing")
    module, state, masks, _ = given(Case(sub, "triton", "fp32", {"z": (12, 12)}, {"z": 16}), DEVICE)
    choice = Choice("triton", 12, 12, piece_rows=6)
    call = Call(module, choice, masks, ranks=RingOfOne(), total=12)
    promised = piece_bytes(sub, sub.kernels["triton"]["cuda"], choice, Setting(shapes, 4, 1, False, False)).forward
    with TensorMeter() as meter:
        apply.forward(call, state, state["z"])
    assert 0.8 * promised <= meter.peak <= promised


def test_pieces_of_an_outer_product_end_in_their_columns():
    """Of the pair, in place; no tensor holds them."""
    problem = Problem(stacks=(Stack("evoformer", 1, 5, {"c_m": 16, "c_z": 24, "c_hidden_opm": 8}),), n_res=12, memory=1)
    spec, shapes = shapes_of(problem, problem.stacks[0])
    sub = next(s for s in spec.sub_modules if s.name == "outer_product_mean")
    module, state, masks, _ = given(Case(sub, "triton", "fp32", shapes.axes, shapes.channels), DEVICE)
    pairs = []
    for kernel, pieces in (("reference", 0), ("triton", 5)):
        call = Call(module, Choice(kernel, 7, 12, piece_rows=pieces), masks, ranks=RingOfOne(), total=12)
        pairs.append(state["z"].clone())
        with TensorMeter() as meter:
            apply.forward(call, {**state, "z": pairs[-1]}, pairs[-1])
    assert (pairs[1] - pairs[0]).norm() <= 1e-5 * (pairs[0] - state["z"]).norm()
    promised = piece_bytes(sub, sub.kernels["triton"]["cuda"], call.choice, Setting(shapes, 4, 1, False, False)).forward
    assert 0.8 * promised <= meter.peak <= promised


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton's interpreter, which runs its kernels here, is for machines without a GPU")
@pytest.mark.parametrize(("rows", "pieces"), [(8, 8), (8, 2), (2, 1)])
@pytest.mark.parametrize("kernel", ["reference", "triton"])
@pytest.mark.parametrize(
    ("name", "layout"), [("triangle_multiplication_incoming", {"m": 0, "z": 1}), ("outer_product_mean", {"m": 1, "z": 0})]
)
def test_pieces_go_back_within_their_promise(name, layout, kernel, rows, pieces):
    problem = Problem(
        stacks=(Stack("evoformer", 1, 8, {"c_m": 16, "c_z": 16, "c_hidden_mul": 16, "c_hidden_opm": 8}),),
        n_res=16,
        memory=1,
        world=2,
        axial=2,
    )
    spec, shapes = shapes_of(problem, problem.stacks[0])
    shapes = replace(shapes, layout=layout)
    sub = next(s for s in spec.sub_modules if s.name == name)
    own = {t: tuple(shapes.own(t, axis) for axis in (0, 1)) for t in shapes.axes}
    module, state, masks, grads = given(Case(sub, kernel, "fp32", own, shapes.channels), DEVICE)
    choice = Choice(kernel, rows, 8, True, piece_rows=pieces)
    promised = piece_bytes(sub, sub.kernels[kernel]["cuda"], choice, Setting(shapes, 4, 1, False, False)).back
    gradients = Gradients(list(module.parameters()))
    with TensorMeter() as meter:
        apply.backward(Call(module, choice, masks, ranks=RingOfTwo(), total=16), state, None, grads, gradients)
    assert 0.6 * promised <= meter.peak <= promised


@pytest.mark.parametrize("back", [False, True])
def test_the_next_piece_is_on_its_way_before_rows_are_prepared(monkeypatch, back):
    events: list[str] = []

    class Telling(RingOfTwo):
        def pass_on(self, tensors, rows):
            events.append("pass on")
            return super().pass_on(tensors, rows)

    sub = triangle_multiplication("x", "", ("z", 0), C_Z, HIDDEN)
    module, state, masks, grads = given(Case(sub, "reference", "fp32", {"z": (4, 8)}, {"z": C_Z}), DEVICE)
    call = Call(module, Choice("reference", 4, 4, True, piece_rows=4), masks, ranks=Telling(), total=8)
    prepare = type(module).prepare
    monkeypatch.setattr(type(module), "prepare", lambda *args: (events.append("prepare"), prepare(*args))[1])
    if back:
        apply.backward(call, state, None, grads, Gradients(list(module.parameters())))
    else:
        apply.forward(call, state, state["z"])
    assert events[:2] == ["pass on", "prepare"] and events.count("prepare") == 1


@pytest.mark.parametrize(("run", "pieces"), [("forward", 0), ("forward", 2), ("record", 0), ("backward", 0), ("backward", 2)])
def test_what_goes_on_beside_begins_behind_the_share_and_before_the_update(monkeypatch, run, pieces):
    """Before it, the gather would wait for it; behind it, nothing would hide it."""
    events: list[str] = []
    sub = triangle_multiplication("x", "", ("z", 0), C_Z, HIDDEN)
    module, state, masks, grads = given(Case(sub, "reference", "fp32", {"z": (4, 4)}, {"z": C_Z}), DEVICE)
    for name in ("share", "update", "finish"):
        made = getattr(type(module), name)
        monkeypatch.setattr(type(module), name, lambda *args, name=name, made=made: (events.append(name), made(*args))[1])
    choice = Choice("reference", 4, 4, run != "record", piece_rows=pieces)
    call = Call(module, choice, masks, ranks=RingOfOne(), total=4, beside=lambda: events.append("beside"))
    if run == "forward":
        apply.forward(call, state, state["z"])
    elif run == "record":
        apply.record(call, state)
    else:
        apply.backward(call, state, None, grads, Gradients(list(module.parameters())))
    assert events[:2] == ["share", "beside"] and events.count("beside") == 1
