"""Plans are for one kind of card."""

import pytest

from foldfit.cost.devices import GPUS
from foldfit.errors import BadInput
from foldfit.runtime.check import check_card

HERE = {
    "V100-16GB": "Tesla V100-SXM2-16GB",
    "V100-32GB": "Tesla V100-SXM2-32GB",
    "A100-40GB": "NVIDIA A100-SXM4-40GB",
    "A100-80GB": "NVIDIA A100-SXM4-80GB",
    "L4": "NVIDIA L4",
    "L40S": "NVIDIA L40S",
    "RTX 3090": "NVIDIA GeForce RTX 3090",
    "RTX 4090": "NVIDIA GeForce RTX 4090",
    "RTX 5090": "NVIDIA GeForce RTX 5090",
    "H100": "NVIDIA H100 80GB HBM3",
    "H200": "NVIDIA H200",
    "B200": "NVIDIA B200",
    "MI300X": "AMD Instinct MI300X",
}


@pytest.mark.parametrize("name", [d.name for d in GPUS])
def test_a_plan_runs_on_its_card(name):
    check_card(name, HERE[name])


def test_a_plan_for_another_card_is_refused():
    with pytest.raises(BadInput, match="for H200, this card is NVIDIA A100"):
        check_card("H200", HERE["A100-40GB"])
    with pytest.raises(BadInput, match="for L4, this card is NVIDIA L40S"):
        check_card("L4", HERE["L40S"])
