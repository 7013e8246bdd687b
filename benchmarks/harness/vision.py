"""Images of ten kinds, and small networks that tell them apart."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from harness.arguments import parser
from truing.core.errors import bad
from truing.core.lazy import F, torch
from truing.models.networks import mlp, transformer
from truing.units.permutations import PermutationSpec

NAMES = {"qkv_weight": "qkv.weight", "qkv_bias": "qkv.bias", "o": "o", "up": "up", "down": "down", "norms": "one two"}


@dataclass(frozen=True)
class Images:
    """``(N, 64)`` in [0, 1] or so, and ``(N,)`` classes, for training and held out."""

    x: torch.Tensor
    y: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor


def images(name: str, *, short: bool) -> Images:
    """scikit-learn's digits of 8 by 8, or ten clouds of 64 numbers that overlap.

    Raises:
        InputError: scikit-learn is not there.
    """
    if name == "digits":
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise bad(
                "--data", f"scikit-learn is not there ({error})", "pip install scikit-learn, or made-up."
            ) from error
        given = load_digits()
        x, y = torch.tensor(given.data / 16, dtype=torch.float32), torch.tensor(given.target)
    else:
        numbers = torch.Generator().manual_seed(0)
        y = torch.randint(0, 10, (400 if short else 4000,), generator=numbers)
        centres = torch.randn(10, 64, generator=numbers)
        x = centres[y] + 2.0 * torch.randn(len(y), 64, generator=numbers)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
    cut = len(y) * 4 // 5
    return Images(x[order[:cut]], y[order[:cut]], x[order[cut:]], y[order[cut:]])


class Block(nn.Module):
    """Attention and an MLP, each behind a layer norm."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.one, self.two = heads, nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.o = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, T, size)`` to the same."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.one(x)).chunk(3, -1))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.two(x))))


class Transformer(nn.Module):
    """Sixteen patches of four pixels, and a token that tells the class."""

    def __init__(self, size: int, heads: int = 4, blocks: int = 2) -> None:
        super().__init__()
        self.embed, self.token = nn.Linear(4, size), nn.Parameter(0.02 * torch.randn(1, 1, size))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 17, size))
        self.blocks = nn.ModuleList(Block(size, heads) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, 10)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``(B, 64)`` pixels to ``(B, 10)``."""
        patches = input.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
        x = torch.cat([self.token.expand(len(input), 1, -1), self.embed(patches)], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(self.norm(x)[:, 0])
        return logits


@dataclass(frozen=True)
class Shape:
    """A network by name: how it is made, what may move in it, and how long it learns."""

    name: str
    make: Callable[[], nn.Module]
    spec: Callable[[Mapping[str, torch.Tensor]], PermutationSpec]
    epochs: int


def shapes(widths: Sequence[int], dims: Sequence[int], *, epochs: int) -> Iterator[Shape]:
    """MLPs of three layers and transformers of two blocks."""
    for width in widths:
        yield Shape(f"MLP, 64-{width}-{width}-10", _mlp(width), lambda w: mlp(w, ("0", "2", "4")), epochs)
    for size in dims:
        yield Shape(f"transformer, stream {size}", _transformer(size), _moves, epochs)


def _mlp(width: int) -> Callable[[], nn.Module]:
    layers = (64, width), (width, width), (width, 10)
    return lambda: nn.Sequential(*[part for pair in layers for part in (nn.Linear(*pair), nn.ReLU())][:-1])


def _transformer(size: int) -> Callable[[], nn.Module]:
    return lambda: Transformer(size)


def _moves(weights: Mapping[str, torch.Tensor]) -> PermutationSpec:
    outside = ("embed", "token", "positions", "norm")
    return transformer(weights, ("blocks.0", "blocks.1"), 4, makes=outside, reads=("head",), names=NAMES)


def trained(shape: Shape, data: Images, seed: int) -> nn.Module:
    """A network from a seed, which also orders its batches."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = shape.make()
    numbers = torch.Generator().manual_seed(seed)
    steps = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(shape.epochs):
        for picks in torch.randperm(len(data.x), generator=numbers).split(100):
            steps.zero_grad()
            F.cross_entropy(net(data.x[picks]), data.y[picks]).backward()
            steps.step()
    return net.eval()


def evaluated(net: nn.Module, weights: Mapping[str, torch.Tensor], data: Images, side: str) -> tuple[float, float]:
    """Mean loss, nats, and accuracy at some weights: on ``train`` or ``test``."""
    x, y = (data.x, data.y) if side == "train" else (data.x_test, data.y_test)
    with torch.no_grad():
        logits = torch.func.functional_call(net, dict(weights), (x,))
    return float(F.cross_entropy(logits, y)), float((logits.argmax(1) == y).double().mean())


def asked(name: str, summary: str, *, widths: str, dims: str) -> tuple[argparse.Namespace, Images, list[Shape]]:
    """The command line of a benchmark of such networks, and what it asks for."""
    made = parser(name, summary, repeats=1)
    made.add_argument("--data", choices=["digits", "made-up"], default="digits")
    made.add_argument("--pairs", type=int, default=3, help="pairs of networks of each shape (%(default)s)")
    made.add_argument("--widths", default=widths, help="of the MLPs (%(default)s)")
    made.add_argument("--dims", default=dims, help="of the transformers' streams (%(default)s)")
    words = made.parse_args()
    if words.short:
        words.data, words.pairs, words.widths, words.dims = "made-up", 1, "16", "16"
    torch.set_num_threads(words.threads)
    sizes = [[int(n) for n in text.split(",") if n] for text in (words.widths, words.dims)]
    return words, images(words.data, short=words.short), list(shapes(*sizes, epochs=2 if words.short else 60))
