"""Names and shapes of the tensors in published checkpoints, written down from the publications. Nothing here calls agentkd."""

from collections.abc import Iterator

Named = tuple[str, tuple[int, ...]]
# planes, blocks at 1/4 and 1/8, blocks at 1/16 and 1/32, pyramid and head planes, as Xu et al. (CVPR 2023) name the three sizes.
PIDNET = {"pidnet_s": (32, 2, 3, 96, 128), "pidnet_m": (64, 2, 3, 96, 128), "pidnet_l": (64, 3, 4, 112, 256)}


def _norm(name: str, channels: int) -> Iterator[Named]:
    yield from ((f"{name}.{kind}", (channels,)) for kind in ("weight", "bias", "running_mean", "running_var"))
    yield f"{name}.num_batches_tracked", ()


def _conv(name: str, inputs: int, outputs: int, kernel: int, *, bias: bool = False, groups: int = 1) -> Iterator[Named]:
    yield f"{name}.weight", (outputs, inputs // groups, kernel, kernel)
    if bias:
        yield f"{name}.bias", (outputs,)


def _pair(name: str, inputs: int, outputs: int, kernel: int = 1, at: tuple[str, str] = ("0", "1")) -> Iterator[Named]:
    yield from _conv(f"{name}.{at[0]}", inputs, outputs, kernel)
    yield from _norm(f"{name}.{at[1]}", outputs)


def _basic(name: str, inputs: int, outputs: int, *, halves: bool = False) -> Iterator[Named]:
    yield from _conv(f"{name}.conv1", inputs, outputs, 3)
    yield from _norm(f"{name}.bn1", outputs)
    yield from _conv(f"{name}.conv2", outputs, outputs, 3)
    yield from _norm(f"{name}.bn2", outputs)
    if halves or inputs != outputs:
        yield from _pair(f"{name}.downsample", inputs, outputs)


def _bottleneck(name: str, inputs: int, planes: int, *, halves: bool = False) -> Iterator[Named]:
    for number, (given, made, kernel) in enumerate(((inputs, planes, 1), (planes, planes, 3), (planes, 2 * planes, 1)), start=1):
        yield from _conv(f"{name}.conv{number}", given, made, kernel)
        yield from _norm(f"{name}.bn{number}", made)
    if halves or inputs != 2 * planes:
        yield from _pair(f"{name}.downsample", inputs, 2 * planes)


def _stage(name: str, inputs: int, outputs: int, blocks: int, *, halves: bool = False) -> Iterator[Named]:
    yield from _basic(f"{name}.0", inputs, outputs, halves=halves)
    for number in range(1, blocks):
        yield from _basic(f"{name}.{number}", outputs, outputs)


def _head(name: str, inputs: int, planes: int, outputs: int) -> Iterator[Named]:
    yield from _norm(f"{name}.bn1", inputs)
    yield from _conv(f"{name}.conv1", inputs, planes, 3)
    yield from _norm(f"{name}.bn2", planes)
    yield from _conv(f"{name}.conv2", planes, outputs, 1, bias=True)


def _pre(name: str, inputs: int, outputs: int, *, kernel: int, at: tuple[str, str], groups: int = 1) -> Iterator[Named]:
    yield from _norm(f"{name}.{at[0]}", inputs)
    yield from _conv(f"{name}.{at[1]}", inputs, outputs, kernel, groups=groups)


def _pyramid(name: str, inputs: int, planes: int, outputs: int, *, is_parallel: bool) -> Iterator[Named]:
    for number in range(1, 5):
        yield from _pre(f"{name}.scale{number}", inputs, planes, kernel=1, at=("1", "3"))
    yield from _pre(f"{name}.scale0", inputs, planes, kernel=1, at=("0", "2"))
    if is_parallel:
        yield from _pre(f"{name}.scale_process", 4 * planes, 4 * planes, kernel=3, at=("0", "2"), groups=4)
    else:
        for number in range(1, 5):
            yield from _pre(f"{name}.process{number}", planes, planes, kernel=3, at=("0", "2"))
    yield from _pre(f"{name}.compression", 5 * planes, outputs, kernel=1, at=("0", "2"))
    yield from _pre(f"{name}.shortcut", inputs, outputs, kernel=1, at=("0", "2"))


def pidnet(size: str, num_classes: int, *, heads: bool = True) -> dict[str, tuple[int, ...]]:
    """PIDNet's names, with the heads that training alone needs (``seghead_p``, ``seghead_d``) or without."""
    p, few, many, ppm, head = PIDNET[size]
    is_large = size == "pidnet_l"

    def listed() -> Iterator[Named]:
        yield from _conv("conv1.0", 3, p, 3, bias=True)
        yield from _norm("conv1.1", p)
        yield from _conv("conv1.3", p, p, 3, bias=True)
        yield from _norm("conv1.4", p)
        yield from _stage("layer1", p, p, few)
        yield from _stage("layer2", p, 2 * p, few, halves=True)
        yield from _stage("layer3", 2 * p, 4 * p, many, halves=True)
        yield from _stage("layer4", 4 * p, 8 * p, many, halves=True)
        yield from _bottleneck("layer5.0", 8 * p, 8 * p, halves=True)
        yield from _bottleneck("layer5.1", 16 * p, 8 * p)
        yield from _pair("compression3", 4 * p, 2 * p)
        yield from _pair("compression4", 8 * p, 2 * p)
        for number in (3, 4):
            for part in ("f_x", "f_y"):
                yield from _pair(f"pag{number}.{part}", 2 * p, p)
        yield from _stage("layer3_", 2 * p, 2 * p, few)
        yield from _stage("layer4_", 2 * p, 2 * p, few)
        yield from _bottleneck("layer5_.0", 2 * p, 2 * p)
        detail = 2 * p if is_large else p
        yield from _basic("layer3_d", 2 * p, detail)
        if is_large:
            yield from _basic("layer4_d", detail, 2 * p)
        else:
            yield from _bottleneck("layer4_d.0", p, p)
        yield from _pair("diff3", 4 * p, detail, 3)
        yield from _pair("diff4", 8 * p, 2 * p, 3)
        yield from _bottleneck("layer5_d.0", 2 * p, 2 * p)
        yield from _pyramid("spp", 16 * p, ppm, 4 * p, is_parallel=not is_large)
        if is_large:
            yield from _pre("dfm.conv", 4 * p, 4 * p, kernel=3, at=("0", "2"))
        else:
            yield from _pair("dfm.conv_p", 4 * p, 4 * p)
            yield from _pair("dfm.conv_i", 4 * p, 4 * p)
        if heads:
            yield from _head("seghead_p", 2 * p, head, num_classes)
            yield from _head("seghead_d", 2 * p, p, 1)
        yield from _head("final_layer", 4 * p, head, num_classes)

    return dict(listed())


def resnet18(num_classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """ResNet-18 as torchvision names it, with its classifier."""

    def listed() -> Iterator[Named]:
        yield from _conv("conv1", 3, 64, 7)
        yield from _norm("bn1", 64)
        for number, (inputs, outputs) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512)), start=1):
            yield from _stage(f"layer{number}", inputs, outputs, 2, halves=number > 1)
        yield "fc.weight", (num_classes, 512)
        yield "fc.bias", (num_classes,)

    return dict(listed())
