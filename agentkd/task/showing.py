"""A task's result in a few words, and row by row for a notebook's table."""

from typing import TYPE_CHECKING

from agentkd.visible import visible_line

if TYPE_CHECKING:
    from agentkd.task.results import TaskResult


def summary(result: "TaskResult") -> str:
    """A result in a few words, on one line."""
    said = [str(result.status)]
    if result.epochs:
        said.append(f"{result.epochs} epochs")
    if result.class_iou or result.miou:
        said.append(f"mIoU {100 * result.miou:.2f} %")
    if result.accuracy is not None:
        said.append(f"accuracy {100 * result.accuracy:.2f} %")
    if made := result.weights or result.knowledge:
        said.append(f"{'weights' if result.weights else 'knowledge'} {made[:12]}")
    if result.error_code:
        said.append(f"{result.error_code}: {result.error_text}")
    return visible_line(", ".join(said))


def rows(result: "TaskResult") -> dict[str, str]:
    """What a result has, each with what it is called."""
    found = {
        "status": str(result.status),
        "mIoU": f"{100 * result.miou:.2f} %" if result.class_iou or result.miou else "",
        "IoU of each class": ", ".join("-" if iou is None else f"{100 * iou:.1f} %" for iou in result.class_iou),
        "accuracy": "" if result.accuracy is None else f"{100 * result.accuracy:.2f} %",
        "epochs": f"{result.epochs}, the best is {result.best_epoch}" if result.epochs else "",
        "weights": result.weights,
        "knowledge": result.knowledge,
        "parameters": f"{result.num_parameters_deploy:,} when deployed" if result.num_parameters_deploy else "",
        "MACs": f"{result.num_macs:,}" if result.num_macs else "",
        "class weights": ", ".join(f"{weight:.3g}" for weight in result.class_weights),
        "error": f"{result.error_code}: {result.error_text}" if result.error_code else "",
    }
    return {name: value for name, value in found.items() if value}
