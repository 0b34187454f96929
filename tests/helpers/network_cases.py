"""Networks as training leaves them, for tests that would not see a fault in fresh ones."""

from torch import nn


def enliven(model):
    """BatchNorm as after training; with its initial values many a fault would change nothing."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.get_buffer("running_mean").normal_(std=0.3)
            module.get_buffer("running_var").uniform_(0.5, 1.5)
    return model
