"""A network as data: family, number of classes and settings, with a canonical form and a digest.

What a family's settings mean and which values are legal is known to ``agentkd.networks``; here they are plain data.
"""

from pydantic import Field

from agentkd.code.source import Named

Setting = bool | int | float | str


class Architecture(Named):
    """Family and settings of one network. Two equal architectures build identical networks.

    Args:
        family: a name in ``agentkd networks`` or ``package.module:builder`` for one's own.
        num_classes: K, the classes the network tells apart (ignored pixels are not a class).
        settings: every setting that the family has; ``agentkd.networks.families.resolve`` fills in the defaults.
        code: digest of the code that an own family's builder is in.
    """

    family: str = Field(min_length=1, max_length=200)
    num_classes: int = Field(ge=2, le=1000)
    settings: dict[str, Setting] = Field(default_factory=dict)
