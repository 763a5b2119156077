"""Table I of the paper, as printed, to stand beside our own.

Source: Vlachos, Papaioannidis, Pitas, "Neural Architecture Search and Knowledge Distillation for Semantic Image
Segmentation on Big Wildfire Datasets", Table I (BLAZE dataset, which is not public).
"""

from dataclasses import dataclass

from agentkd.experiment import Experiment

NUM_CLASSES = 5
EPOCHS = (120, 50, 50, 50)


@dataclass(frozen=True)
class PrintedCell:
    """A cell of the table: mIoU in percent, and the parameters as printed."""

    miou_percent: float
    parameters: str


PAPER_TABLE: dict[str, tuple[PrintedCell, PrintedCell, PrintedCell, PrintedCell]] = {
    "cnn_i2i_bisenet": (
        PrintedCell(74.82, "18.4M"),
        PrintedCell(74.18, "17.8M"),
        PrintedCell(74.18, "17.8M"),
        PrintedCell(73.92, "17.8M"),
    ),
    "pidnet_s": (
        PrintedCell(73.79, "7.72M"),
        PrintedCell(74.22, "6.97M"),
        PrintedCell(75.04, "6.94M"),
        PrintedCell(75.84, "6.94M"),
    ),
    "pidnet_m": (
        PrintedCell(71.27, "28.8M"),
        PrintedCell(71.07, "19.6M"),
        PrintedCell(71.93, "14.5M"),
        PrintedCell(72.94, "14.5M"),
    ),
    "pidnet_l": (
        PrintedCell(70.13, "37.3M"),
        PrintedCell(69.66, "28.0M"),
        PrintedCell(71.08, "19.3M"),
        PrintedCell(71.08, "19.3M"),
    ),
    "unet": (PrintedCell(64.11, "7.76M"), PrintedCell(65.47, "1.93M"), PrintedCell(67.14, "1.86M"), PrintedCell(68.21, "1.86M")),
}


def is_of_the_paper(experiment: Experiment, num_classes: int) -> bool:
    """Whether an experiment is the paper's, whose numbers say something beside its own: families, classes and epochs as there."""
    stages = (experiment.baseline, experiment.search, experiment.round1, experiment.round2)
    is_alike = set(experiment.families) == set(PAPER_TABLE) and num_classes == NUM_CLASSES
    is_photographs = not experiment.data.dataset.startswith("generated")
    return is_alike and is_photographs and tuple(stage.epochs for stage in stages) == EPOCHS
