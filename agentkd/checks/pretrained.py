"""Are the files of pretrained weights weights, and of the networks that are to inherit them?"""

from pathlib import Path
from typing import TYPE_CHECKING

from agentkd.checks.concerns import Concern, warning
from agentkd.checks.plan import RunPlan
from agentkd.errors import ConfigError, ContractError, RemoteProtocolError, check_descriptors

if TYPE_CHECKING:
    from agentkd.networks.trying import Tried


def check_weights(plan: RunPlan) -> list[Concern]:
    """Of each family with a file of weights: whether agents can read it, and whether the network inherits anything of it."""
    found = []
    for family, config in plan.experiment.families.items():
        if config.weights:
            path = Path(config.weights)
            found += _check_file(path, plan.tried.get(family), family, plan.dataset.classes if plan.dataset else ())
    return found


def _check_file(file: Path, tried: "Tried | ConfigError | None", family: str, classes: tuple[str, ...]) -> list[Concern]:
    from agentkd.knowledge import tensors  # needs torch, which a plan does not
    from agentkd.knowledge.contracts import agree_on_order
    from agentkd.knowledge.weights import agree_on_images, read_metadata

    path = f"families.{family}.weights"
    try:
        data = file.read_bytes()
        given, said = tensors.decode(data), read_metadata(data)
    except RemoteProtocolError as error:
        return [Concern(path, f"{file} is no file of weights: {error}; {_advice(file, family, classes)}")]
    except OSError as error:
        check_descriptors(file, error)
        return [Concern(path, f"{file} cannot be read: {error.strerror or error}")]
    if tried is None or isinstance(tried, ConfigError):
        return []
    # What has no shape (a counter of batches) is called alike in networks that have nothing else in common.
    own = {name: value.shape for name, value in tried.network.state_dict().items() if value.shape}
    fitting = [name for name, value in given.items() if name in own and own[name] == value.shape]
    if not fitting:
        some = ", ".join(list(given)[:3])
        text = f"none of the tensors in {file} ({some}, ...) has the name and shape of one of {family}; it is another network's"
        return [Concern(path, f"{text}; or not of our form: {_advice(file, family, classes)}")]
    try:
        agree_on_order(said.classes, classes)
        agree_on_images(said, tried.architecture)
    except ContractError as error:
        return [Concern(path, f"{file}: {error}")]
    if 2 * len(fitting) < len(own):
        text = f"of {file} only {len(fitting):,} of the {len(own):,} tensors of {family} are inherited; is it another network's?"
        return [warning(path, text)]
    return []


def _advice(file: Path, family: str, classes: tuple[str, ...]) -> str:
    out = f"{file.stem}-{family.rpartition(':')[2]}.safetensors"
    return f"make one with: agentkd weights {file} {out} --family {family} --classes {len(classes) or 'K'}"
