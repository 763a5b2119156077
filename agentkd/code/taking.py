"""Own code taken up as it is now: collected from the user's tree, and provided to this process, which is the user's."""

from agentkd.code.collecting import collect
from agentkd.code.loading import provide
from agentkd.names import Digest


def take(name: str, *others: str) -> Digest:
    """The digest of the code behind ``package.module:attribute``, and other such names; it may run in this process from now on.

    Raises:
        ConfigError: as ``collect``.
    """
    return provide(collect(name, others=others))
