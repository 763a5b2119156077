"""An objective of each kind, and of each way in which a kind can be set."""

from agentkd.objectives import (
    Attention,
    Boundary,
    ChannelWise,
    Dist,
    Dkd,
    Features,
    Ifvd,
    Objective,
    Own,
    Pairwise,
    Payload,
    SoftTargets,
)

ALL: dict[str, Objective] = {
    "soft_targets": SoftTargets(temperature=2),
    "soft_targets native": SoftTargets(temperature=3, resolution="native"),
    "soft_targets standardized": SoftTargets(standardize=True),
    "soft_targets correct": SoftTargets(gate="correct"),
    "boundary": Boundary(width=1),
    "dkd": Dkd(temperature=2),
    "dist": Dist(temperature=2),
    "channel logits": ChannelWise(),
    "channel features": ChannelWise(taps={"s": "t"}),
    "features": Features({"s": "t"}, standardize=False),
    "features standardized": Features({"s": "t"}, standardize=True),
    "attention": Attention({"s": "t"}),
    "pairwise": Pairwise({"s": "t"}, size=4),
    "ifvd": Ifvd({"s": "t"}),
}
OWN = {
    "own": Own(path="own.objectives:Absolute"),
    "own of features": Own(
        path="own.objectives:FeatureDistance",
        sends=(Payload(form="features", tap="t"),),
        student_taps=("s",),
        settings={"power": 2.0},
    ),
}
