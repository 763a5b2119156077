"""How long a network takes for an image, measured where it is: the one cost that depends on the machine."""

import statistics
import time

import torch
from torch import nn

WARM_UP, TIMED = 3, 15
LIMIT_S = 10.0  # a slow network is timed less often


def measure_latency_ms(network: nn.Module, height: int, width: int, device: torch.device, *, num_channels: int = 3) -> float:
    """Median milliseconds of one forward pass in inference form for one image of ``height x width`` pixels.

    The network is left as it was found. Nothing is drawn by lot, so nothing that comes later depends on this.

    Args:
        network: whatever takes images [1, C, H, W].
        height: pixels.
        width: pixels.
        device: where it is, and the image too.
        num_channels: C.
    """
    was_training = network.training
    network.eval()
    image = torch.full((1, num_channels, height, width), 0.5, device=device)
    times: list[float] = []
    deadline = time.monotonic() + LIMIT_S
    with torch.no_grad():
        for _ in range(WARM_UP + TIMED):
            started = time.perf_counter()
            network(image)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(1000 * (time.perf_counter() - started))
            if time.monotonic() > deadline:
                break
    network.train(was_training)
    return statistics.median(times[WARM_UP:] or times[-1:])
