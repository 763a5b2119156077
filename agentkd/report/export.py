"""A run written for other people's trackers: TensorBoard event files, an MLflow file store. Local, afterwards, from the records.

Nothing of a run waits for them: the journal stays the truth, and an export can be made again at any time.
"""

from collections.abc import Callable
from pathlib import Path

from agentkd.artifacts.history import MAX_TRACE, read_history, read_losses
from agentkd.artifacts.journal import Record
from agentkd.artifacts.run_folder import RunFolder
from agentkd.errors import ConfigError
from agentkd.task import Taught, Training

Exporter = Callable[[RunFolder, Path], int]
MISSING = "{} is not installed; run: pip install 'agentkd[{}]'"


def export(folder: RunFolder, out: Path, tool: str) -> int:
    """Writes every training of a run; returns how many there were.

    Args:
        folder: the run.
        out: folder of event files, or of the file store.
        tool: ``tensorboard`` or ``mlflow``.

    Raises:
        ConfigError: no such tool, or it is not installed.
        ArtifactError: the folder holds no run.
    """
    if tool not in EXPORTERS:
        raise ConfigError(f"--to {tool!r}: expected {' or '.join(EXPORTERS)}")
    return EXPORTERS[tool](folder, out)


def _to_tensorboard(folder: RunFolder, out: Path) -> int:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ConfigError(MISSING.format("tensorboardX", "tensorboard")) from error
    trainings = _trainings(folder)
    for record in trainings:
        with SummaryWriter(str(out / _name(record)), write_to_disk=True) as writer:
            for step, loss in enumerate(_losses(folder, record), start=1):
                writer.add_scalar("loss/step", loss, step)
            for epoch in record.result.history:
                writer.add_scalar("loss/epoch", epoch.loss, epoch.epoch)
                if epoch.miou is not None:
                    writer.add_scalar("miou/validation", epoch.miou, epoch.epoch)
                if epoch.accuracy is not None:
                    writer.add_scalar("accuracy/validation", epoch.accuracy, epoch.epoch)
            writer.add_text("task", "\n\n".join(f"{name}: {value}" for name, value in _parameters(record).items()))
    return len(trainings)


def _to_mlflow(folder: RunFolder, out: Path) -> int:
    try:
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise ConfigError(MISSING.format("mlflow-skinny", "mlflow")) from error
    out.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=f"sqlite:///{out.resolve() / 'mlflow.db'}")
    name = folder.place.name
    found = client.get_experiment_by_name(name)
    artifacts = (out.resolve() / "artifacts").as_uri()
    experiment = found.experiment_id if found else client.create_experiment(name, artifact_location=artifacts)
    known = {run.data.tags.get("task") for run in client.search_runs([experiment], max_results=10_000)}
    trainings = [record for record in _trainings(folder) if record.task.key not in known]
    for record in trainings:
        tags = {"task": record.task.key, "weights": record.result.weights, "agent": record.agent, "label": record.label}
        run = client.create_run(experiment, run_name=_name(record))
        at = run.info.start_time
        metrics = [Metric("loss", epoch.loss, at, epoch.epoch) for epoch in record.result.history]
        for name in ("miou", "accuracy"):
            scores = ((epoch.epoch, getattr(epoch, name)) for epoch in record.result.history)
            metrics += [Metric(name, score, at, epoch) for epoch, score in scores if score is not None]
        parameters = [Param(key, value) for key, value in _parameters(record).items()]
        for start in range(0, max(len(metrics), 1), 900):
            client.log_batch(run.info.run_id, metrics[start : start + 900])
        for start in range(0, len(parameters), 90):
            client.log_batch(run.info.run_id, params=parameters[start : start + 90])
        client.log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        client.set_terminated(run.info.run_id)
    return len(trainings)


EXPORTERS: dict[str, Exporter] = {"tensorboard": _to_tensorboard, "mlflow": _to_mlflow}


def _trainings(folder: RunFolder) -> list[Record]:
    return [record for record in read_history(folder).by_task.values() if record.result.history]


def _name(record: Record) -> str:
    """The label as a file name, and the beginning of the key."""
    kept = "".join(char if char.isalnum() or char in "-_." else "-" for char in record.label or str(record.task.kind))
    return f"{kept[:80]}-{record.task.key[:8]}"


def _losses(folder: RunFolder, record: Record) -> list[float]:
    trace = record.result.trace
    return read_losses(folder.store.get(trace, max_bytes=MAX_TRACE)) if trace and trace in folder.store else []


def _parameters(record: Record) -> dict[str, str]:
    """What was chosen, flat."""
    task = record.task
    flat = {"kind": str(task.kind), "family": task.architecture.family, "data": task.data.spec}
    flat |= {f"settings.{name}": str(value) for name, value in task.architecture.settings.items()}
    if isinstance(task, Training):
        flat |= {"seed": str(task.seed)} | {f"recipe.{name}": str(value) for name, value in task.recipe.canonical().items()}
    flat |= {f"teacher.{number}": teacher.weights for number, teacher in enumerate(task.taught_by)}
    if isinstance(task, Taught):
        flat |= {f"distillation.{name}": str(value) for name, value in task.distillation.canonical().items()}
    return flat
