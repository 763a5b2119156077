"""Every objective keeps to the published contract, and the contract notices who does not."""

from typing import get_args

import pytest
from every_objective import ALL, OWN

from agentkd import objectives
from agentkd.knowledge.objectives import HALVES
from agentkd.objectives import Objective, Own, Scheduled
from agentkd.testing import check_objective

BROKEN = {
    "NotOne": r"must be made with its settings: ConfigError: .*no method loss",
    "Missing": r"must be made with its settings: ConfigError: .*has no 'Missing'",
    "Unreduced": r"must be a scalar, and leave what it is lent: ConfigError: .*returned torch.float64 \(2, 4, 4\); expected",
    "Infinite": "must be finite; it is inf",
    "Detached": r"must depend on the student's outputs: ConfigError: .*without a gradient",
    "Constant": "gradient is zero where student and teacher differ",
    "WrongGradient": "gradient must be that of finite differences",
    "Remembering": "called twice with the same it must give the same",
    "Meddling": r"must be a scalar, and leave what it is lent: ConfigError: .*changed teacher\['logits'\] in place",
    "Shifted": r"must be zero where both say the same; it is 0\.5",
    "Repelled": "must be least where both say the same",
    "AllCount": "pixels whose label is ignored must not count",
    "MeanOfNothing": "where every pixel is ignored the loss must be zero; it is nan",
    "Summed": "must be a mean over images",
    "OneSize": "must take logits of a teacher that are smaller",
    "Half": "in half precision the loss must be a finite float32; it is inf",
}


@pytest.mark.parametrize("objective", [*ALL.values(), *OWN.values()], ids=[*ALL, *OWN])
def test_an_objective_keeps_to_the_contract(objective: Objective) -> None:
    check_objective(objective)


def test_every_objective_that_there_is_has_its_rows_and_is_checked() -> None:
    kinds = set(get_args(get_args(Objective)[0]))
    written = [member for name, member in vars(objectives).items() if isinstance(member, type) and not name.startswith("_")]
    assert kinds == {member for member in written if issubclass(member, Scheduled)} - {Scheduled}
    assert set(HALVES) == kinds - {Own}
    assert {type(objective) for objective in (*ALL.values(), *OWN.values())} == kinds


@pytest.mark.parametrize(("name", "text"), BROKEN.items())
def test_an_objective_that_breaks_it_is_told_where(name: str, text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        check_objective(Own(path=f"own.objectives:{name}"))


def test_what_is_not_meant_to_be_zero_or_a_mean_is_not_asked_for_it() -> None:
    check_objective(Own(path="own.objectives:CrossEntropy"), is_zero_at_equality=False)
    with pytest.raises(AssertionError, match="is_zero_at_equality=False"):
        check_objective(Own(path="own.objectives:CrossEntropy"))
    check_objective(Own(path="own.objectives:Summed"), is_mean=False)
