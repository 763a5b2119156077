"""The same checks of data for scripts, which have no file: when a network is to learn from data, and once for each data."""

import logging

from agentkd.checks.balance import classes_in, fit_balance
from agentkd.checks.concerns import Concern, raise_errors
from agentkd.checks.data import check_classes
from agentkd.checks.fitting import fit_batch, fit_views
from agentkd.checks.plan import sizes_of
from agentkd.code.running import told
from agentkd.datasets.opening import Opened
from agentkd.datasets.samples import split_indices
from agentkd.datasets.splits import TRAIN, VALIDATION
from agentkd.errors import DatasetError
from agentkd.recipe import Recipe

log = logging.getLogger(__name__)


class DataChecks:
    """Remembers which data were looked at. One thread calls its methods."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str, bool]] = set()

    def must_be_learnable(self, data: Opened, recipe: Recipe, *, needs_labels: bool, name: str) -> None:
        """Nothing, if a network can learn from the data in this way. What may be meant is logged.

        Args:
            data: with splits ``train`` and ``validation``.
            recipe: how.
            needs_labels: whether labels are learned from.
            name: of the network, for what is said.

        Raises:
            ConfigError: the recipe does not go with the data.
            DatasetError: the data are not as described, two splits have an image in common, or there is nothing to be learned.
        """
        train, validation = (split_indices(data, split) for split in (TRAIN, VALIDATION))
        key = (data.spec, data.digest, needs_labels)
        if key not in self._seen:
            with told(f"{data.spec}: its check cannot be done"):
                if not data.is_checked:
                    data.check()
                data.check_splits()
            found = check_classes(data, [(TRAIN, train), (VALIDATION, validation)], needs_labels=needs_labels, place="")
            _tell(found)
            wrong = [concern.text for concern in found if concern.is_error]
            if wrong:
                raise DatasetError(data.name, "; ".join(wrong))
            self._seen.add(key)
        found = fit_batch(recipe.batch_size, len(train), "batch_size", split=TRAIN)
        found += fit_views(recipe, sizes_of(data, train), "views", split=TRAIN)
        used = recipe if needs_labels else recipe.replace(class_weights="none")
        found += fit_balance(used, data.classes, classes_in(data, train), {name: name for name in ("class_weights", "sampler")})
        _tell(found)
        raise_errors(found, source=name)


def _tell(found: list[Concern]) -> None:
    for concern in found:
        if not concern.is_error:
            log.warning("%s", concern.problem)
