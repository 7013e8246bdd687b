"""Networks that are no language model, declared by the names of their parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from truing.core.errors import InputError
from truing.core.rng import Rng
from truing.models.networks import declare, mlp, resnet, transformer, vit
from truing.units.permutations import PermutationSpec, apply, invert, random


class Residual(nn.Module):
    """A block of a residual network under torchvision's names: basic with two convolutions, bottleneck with three."""

    def __init__(self, read: int, out: int, wide: int, count: int, stride: int) -> None:
        super().__init__()
        sizes = [read, *[wide] * (count - 1), out]
        for k in range(1, count + 1):
            kernel = 3 if count == 2 or k == 2 else 1
            step = stride if kernel == 3 and k < 3 and (count == 3 or k == 1) else 1
            conv = nn.Conv2d(sizes[k - 1], sizes[k], kernel, step, kernel // 2, bias=False)
            setattr(self, f"conv{k}", conv)
            setattr(self, f"bn{k}", nn.BatchNorm2d(sizes[k]))
        self.count = count
        if read != out or stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(read, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for k in range(1, self.count + 1):
            y = getattr(self, f"bn{k}")(getattr(self, f"conv{k}")(y))
            y = y.relu() if k < self.count else y
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


class ResNet(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        out = 8 if count == 2 else 16
        self.layer1 = nn.Sequential(Residual(8, out, 6, count, 1), Residual(out, out, 6, count, 1))
        self.layer2 = nn.Sequential(Residual(out, 12, 5, count, 2), Residual(12, 12, 5, count, 1))
        self.fc = nn.Linear(12, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer2(self.layer1(self.bn1(self.conv1(x)).relu()))
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits


class Encoder(nn.Module):
    """A small ViT of torch's own blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_proj, self.class_token = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 5, 16))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 20, 0.0, "gelu", batch_first=True, norm_first=True) for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), 1, 16), patches], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(self.norm(x)[:, 0])
        return logits


def encoder(weights: Any) -> PermutationSpec:
    outside = ("conv_proj", "class_token", "positions", "norm")
    return transformer(weights, ("blocks.0", "blocks.1"), 2, makes=outside, reads=("head",))


def flattened(weights: Any) -> PermutationSpec:
    axes = {"0.weight": ("maps",), "0.bias": ("maps",), "3.weight": ("hidden", "maps"), "3.bias": ("hidden",)}
    return declare(weights, {**axes, "5.weight": (None, "hidden")})


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], PermutationSpec], tuple[int, ...]]] = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)),
        lambda weights: mlp(weights, ("0", "2", "4")),
        (5,),
    ),
    "flattened": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 6), nn.ReLU(), nn.Linear(6, 3)
        ),
        flattened,
        (3, 8, 8),
    ),
    "resnet-basic": (lambda: ResNet(2), resnet, (3, 8, 8)),
    "resnet-bottleneck": (lambda: ResNet(3), resnet, (3, 8, 8)),
    "transformer": (Encoder, encoder, (3, 8, 8)),
}


def made(case: str) -> tuple[nn.Module, PermutationSpec, torch.Tensor]:
    module, spec, shape = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = module().double().eval()
        with torch.no_grad():
            for tensor in network.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(torch.rand_like(tensor) * 0.3)
        x = torch.randn(4, *shape, dtype=torch.float64)
    return network, spec(network.state_dict()), x


@pytest.mark.parametrize("case", CASES)
def test_every_declared_order_leaves_the_function(case: str) -> None:
    network, spec, x = made(case)
    own = network.state_dict()
    assert spec.mismatches({name: tuple(tensor.shape) for name, tensor in own.items()}) == ()
    drawn = random(spec, Rng(2))
    after = apply(spec, drawn, own)
    named = {name for name, axes in spec.tensors.items() if any(p.group for parts in axes for p in parts)}
    assert all(not torch.equal(after[name], own[name]) for name in named)
    with torch.no_grad():
        before, now = network(x), torch.func.functional_call(network, after, (x,))
    torch.testing.assert_close(now, before, rtol=1e-12, atol=1e-10)
    back = apply(spec, invert(drawn), after)
    assert all(torch.equal(back[name], own[name]) for name in own)


def test_the_groups_of_each_shape() -> None:
    assert list(made("mlp")[1].groups) == ["0", "1"]
    assert {n for n in made("resnet-basic")[1].groups if n.startswith("stream")} == {"stream.0", "stream.2"}
    assert {n for n in made("resnet-bottleneck")[1].groups if n.startswith("stream")} == {
        "stream.0", "stream.1", "stream.2",
    }  # fmt: skip
    spec = made("transformer")[1]
    assert set(spec.groups) == {
        "stream",
        *(f"{n}.{i}" for i in (0, 1) for n in ("groups", "keys", "values", "neurons")),
    }
    assert made("flattened")[1].groups["maps"].units == 4
    assert "bn1.running_mean" in made("resnet-basic")[1].silent


def test_torchvisions_names_are_known() -> None:
    """The names and shapes of its ViT, without the package."""
    block = {
        "ln_1.weight": (8,), "ln_1.bias": (8,), "self_attention.in_proj_weight": (24, 8),
        "self_attention.in_proj_bias": (24,), "self_attention.out_proj.weight": (8, 8),
        "self_attention.out_proj.bias": (8,), "ln_2.weight": (8,), "ln_2.bias": (8,),
        "mlp.0.weight": (12, 8), "mlp.0.bias": (12,), "mlp.3.weight": (8, 12), "mlp.3.bias": (8,),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "class_token": (1, 1, 8), "conv_proj.weight": (8, 3, 4, 4), "conv_proj.bias": (8,),
        "encoder.pos_embedding": (1, 5, 8), "encoder.ln.weight": (8,), "encoder.ln.bias": (8,),
        "heads.head.weight": (7, 8), "heads.head.bias": (7,),
    }  # fmt: skip
    for i in range(2):
        shapes |= {f"encoder.layers.encoder_layer_{i}.{name}": shape for name, shape in block.items()}
    spec = vit({name: torch.zeros(shape) for name, shape in shapes.items()}, heads=2)
    assert spec.mismatches(shapes) == ()
    assert set(shapes) - set(spec.tensors) == {"heads.head.bias"}
    assert all(not part.reads for parts in spec.tensors["class_token"] for part in parts)
    assert spec.tensors["heads.head.weight"][1][0].reads


def test_a_declaration_that_does_not_fit_is_refused() -> None:
    weights = {"a": torch.zeros(4, 3), "b": torch.zeros(6)}
    with pytest.raises(InputError, match="an axis of 6 numbers follows 'x', which has 4 units"):
        declare(weights, {"a": ("x",), "b": ("x",)})
    with pytest.raises(InputError, match="no such tensor of so many axes"):
        declare(weights, {"b": (None, "x")})
    with pytest.raises(InputError, match="Name what reads the stream"):
        transformer(weights, (), 2, makes=(), reads=("head",))
