"""Residual networks and encoders, merged in part."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from widening import HALF, out, separated, tensors_of

from truing.core.errors import InputError
from truing.models.networks import resnet, transformer
from truing.units.partial import least_alike
from truing.units.pleas import merge_modules, reestimate, with_tensors


class Small(nn.Module):
    """A residual network of one stage, under torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        block = nn.Module()
        block.conv1, block.bn1 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        block.conv2, block.bn2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.layer1 = nn.ModuleList([block])
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        (block,) = self.layer1
        y = block.bn1(block.conv1(x)).relu()
        return self.fc((x + block.bn2(block.conv2(y))).relu().mean((2, 3)))


def images(seed: int) -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Small()
    reestimate(made, PICTURES)
    return made.double().eval()


PICTURES = [{"x": torch.randn(8, 2, 5, 5, generator=torch.Generator().manual_seed(k))} for k in range(3)]
PICTURES64 = [{"x": batch["x"].double()} for batch in PICTURES]


def test_a_residual_network_with_everything_separate_is_the_mean() -> None:
    """Convolutions, batch norms with their statistics, and a stream that is added to."""
    one, two = images(0), images(1)
    spec = resnet(tensors_of(one))
    found = merge_modules((one, two), spec, separated(spec, 1.0), HALF, PICTURES64, ridge=1e-6)
    made = with_tensors(one, found.tensors)
    inputs = PICTURES64[1]["x"]
    torch.testing.assert_close(out(made, inputs), (out(one, inputs) + out(two, inputs)) / 2, rtol=0, atol=1e-6)
    assert made.conv1.out_channels == made.bn1.num_features == made.layer1[0].conv1.in_channels == 12
    part = merge_modules((one, two), spec, separated(spec, 0.5), HALF, PICTURES64, ridge=1e-3)
    assert set(part.fitted) == {"conv1", "layer1.0.conv1", "layer1.0.conv2", "fc"}
    assert all(fit.after <= fit.before for fit in part.fitted.values())
    small = with_tensors(one, part.tensors)
    before = small.bn1.running_mean.clone()
    reestimate(small, PICTURES64)
    assert not torch.equal(small.bn1.running_mean, before)
    assert small.bn1.momentum == 0.1
    assert not small.bn1.training


def test_statistics_are_the_mean_over_batches() -> None:
    made = images(0)
    first = [made.conv1(batch["x"]).mean((0, 2, 3)) for batch in PICTURES64]
    made.bn1.running_mean.fill_(9.0)
    reestimate(made, PICTURES64)
    torch.testing.assert_close(made.bn1.running_mean, torch.stack(first).mean(0))


class Encoder(nn.Module):
    """One block of an encoder, and a classifier on the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.block(self.embed(x))[:, 0])
        return found


def test_a_transformers_neurons_are_separated_and_its_stream_is_not() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, two = (Encoder().double().eval() for _ in range(2))
    weights = tensors_of(one)
    spec = transformer(weights, ["block"], 2, makes=["embed"], reads=["head"])
    sequences = [{"x": torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(k)).double()} for k in range(3)]
    masks = {"neurons.0": least_alike(torch.arange(12.0), 6)}
    found = merge_modules((one, two), spec, masks, HALF, sequences, ridge=1e-3)
    assert found.tensors["block.linear1.weight"].shape == (18, 8)
    assert {"embed", "block.linear1", "block.linear2", "head"} <= set(found.fitted)
    assert all(fit.after <= fit.before for fit in found.fitted.values())
    made = with_tensors(one, found.tensors)
    wanted = (out(one, sequences[0]["x"]) + out(two, sequences[0]["x"])) / 2
    assert out(made, sequences[0]["x"]).shape == wanted.shape
    with pytest.raises(InputError, match=r"separate\.stream: passes block\.norm1, whose norm is over all of its units"):
        merge_modules((one, two), spec, {"stream": least_alike(torch.arange(8.0), 4)}, HALF, (), ridge=1e-3)
