"""The network that agent.py learns and teaches: a linear map from the three colors of a pixel to the logits of its classes."""

from torch import nn


def linear(num_classes: int) -> nn.Module:
    return nn.Conv2d(3, num_classes, 1)


linear.normalization = "imagenet"
