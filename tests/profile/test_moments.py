"""What the tracer prints is what stands in the specs."""

import pytest

from foldfit.profile.moments import SPECS, main
from foldfit.stacks.spec import Phase


@pytest.mark.parametrize("kind", SPECS)
def test_the_specs_are_what_is_traced(kind, capsys):
    main([kind])
    printed: dict[str, Phase] = {}
    exec(capsys.readouterr().out, {"Phase": Phase}, printed)
    kernel = SPECS[kind]().kernels["reference"]["cpu"]
    for name, phase in {"UPDATE": kernel.update, "SHARE": kernel.share}.items():
        if phase is not None:
            assert (terms(printed[name].saved), printed[name].calls) == (terms(phase.saved), phase.calls)
            for moments in ("forward", "record", "backward"):
                assert {terms(m) for m in getattr(printed[name], moments)} == {terms(m) for m in getattr(phase, moments)}, moments


def terms(expression: str) -> frozenset[str]:
    return frozenset(expression.split(" + "))
