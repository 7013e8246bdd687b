"""The order of losses, drawn."""

from __future__ import annotations

from html import escape

from truing.logic.known import name_of
from truing.logic.lattice import hasse, is_loss, preferences, structures
from truing.logic.simplify import formula, polynomial
from truing.logic.structure import Structure, rank
from truing.logic.worlds import Proposition, atom

WIDTH, HEIGHT = 1140, 1010
CARD = (160, 82)
"""Width and height of one loss."""
FLOOR, STOREY = 682, 147
"""The top of the cards of rank 2, and the distance from one rank to the next."""
NO_LOSS = "no loss: infinite, or always 0"
TALL = 7
"""Dots in a column."""
SIGNS = {"<->": "↔", "->": "→", "~": "¬", " & ": " ∧ ", " | ": " ∨ ", "xor": "⊕", "-": "−"}
TITLES = {
    "ce": ("imitation", ""),
    "unlikelihood": ("unlikelihood", ""),
    "ce_unlikelihood": ("imitation, unlikelihood", ""),
    "implication": ("implication", ""),
    "cpo": ("CPO, SLiC", "base: DPO · margin: SimPO"),
    "orpo": ("ORPO", "its odds ratio"),
}
"""Of the losses that have names: the title, and what is said below it."""
INK, FAINT, PAPER, NAMED, NEW, LINE = "#1b1f24", "#6b7280", "#fdfcf8", "#dcebf7", "#ffffff", "#c9c4b6"
BLUE = "#2f6da8"


def picture() -> str:
    """The sixteen losses that prefer the chosen reply, layered by rank with the strictest below, and all 256 as dots.

    Returns:
        An SVG file. It depends on nothing but this package.
    """
    every = sorted(preferences(), key=lambda one: (rank(one), _place(one)))
    spots = {one: _spot(one, every) for one in every}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>',
        _text(24, 36, "The sixteen losses between imitation-and-unlikelihood and implication", size=19, weight=600),
        _text(24, 60, "W: the model deems the chosen reply valid, with chance w. L: the rejected one, with chance l. "
              "A line upwards: the loss asks less and is nowhere larger.", size=12.5, fill=FAINT),
        *(_edge(*spots[every[i]], *spots[every[j]]) for i, j in hasse(every)),
        *(_card(one, *spots[one]) for one in every),
        *_axis(),
        *_overview(),
        "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _place(structure: Structure) -> float:
    """From left to right: losses that look at the chosen reply, at both, at the rejected one; mirror images apart.

    The mirror image of a loss has ``~L`` for W and ``~W`` for L.
    """
    W, L = atom("W"), atom("L")

    def side(world: Proposition) -> int:
        return int(world.entails(structure.top)) - int(world.entails(structure.bottom))

    shared = (W & L).entails(structure.top), (~W & ~L).entails(structure.top)
    return -4.0 * (side(W & L) - side(~W & ~L)) - (1.0 * shared[0] - 1.0 * shared[1]) + 0.1 * all(shared)


def _spot(structure: Structure, every: list[Structure]) -> tuple[float, float]:
    storey = [one for one in every if rank(one) == rank(structure)]
    step = {1: 0.0, 4: 232.0, 6: 172.0}[len(storey)]
    centre = 92 + (WIDTH - 92 - 20) / 2
    x = centre + (storey.index(structure) - (len(storey) - 1) / 2) * step
    return x, FLOOR - (rank(structure) - 2) * STOREY


def _text(
    x: float, y: float, text: str, *, size: float = 12, weight: int = 400, fill: str = INK, anchor: str = "start"
) -> str:
    at = f'x="{x:g}" y="{y:g}" font-size="{size:g}" font-weight="{weight}" fill="{fill}" text-anchor="{anchor}"'
    return f"<text {at}>{escape(text)}</text>"


def _edge(x: float, y: float, over_x: float, over_y: float) -> str:
    return f'<path d="M{x:g} {y:g} L{over_x:g} {over_y + CARD[1]:g}" stroke="{LINE}" stroke-width="1.4"/>'


def _card(structure: Structure, x: float, y: float) -> str:
    wide, high = CARD
    title, below = TITLES.get(name_of(structure), ("", ""))
    fill, edge = (NAMED, BLUE) if title else (NEW, LINE)
    middle = y + (high / 2 if not title else high - 33 if not below else high - 28)
    box = f'x="{x - wide / 2:g}" y="{y:g}" width="{wide}" height="{high}" rx="8" fill="{fill}" stroke="{edge}"'
    parts = [
        f'<rect {box} stroke-width="1.2"/>',
        _fraction(x - 39, middle, formula(structure.top), formula(structure.bottom), 60),
        _fraction(
            x + 36, middle, polynomial(structure.top), polynomial(structure.bottom), 68, fill=FAINT, style="italic"
        ),
    ]
    if title:
        parts.append(_text(x, y + 18, title, size=11.5, weight=600, fill=BLUE, anchor="middle"))
    if below:
        parts.append(_text(x, y + 32, below, size=9.5, fill=BLUE, anchor="middle"))
    return "".join(parts)


def _fraction(x: float, y: float, top: str, bottom: str, wide: float, *, fill: str = INK, style: str = "normal") -> str:
    for sign, drawn in SIGNS.items():
        top, bottom = top.replace(sign, drawn), bottom.replace(sign, drawn)
    rule = f'<path d="M{x - wide / 2:g} {y:g} h{wide:g}" stroke="{fill}" stroke-width="0.9"/>'
    lines = _text(x, y - 6, top, fill=fill, anchor="middle") + _text(x, y + 15, bottom, fill=fill, anchor="middle")
    return f'<g font-style="{style}">{rule}{lines}</g>'


def _axis() -> list[str]:
    marks = []
    for number in range(2, 7):
        y = FLOOR - (number - 2) * STOREY + CARD[1] / 2
        marks.append(_text(44, y + 5, str(number), size=15, weight=600, fill=FAINT, anchor="middle"))
    top, end = FLOOR - 4 * STOREY + 8, FLOOR + CARD[1] - 8
    return [
        *marks,
        _text(44, top - 2, "asks least", size=11, fill=FAINT, anchor="middle"),
        _text(44, end + 14, "asks most", size=11, fill=FAINT, anchor="middle"),
    ]


def _overview() -> list[str]:
    """Dots: nine blocks, one a rank."""
    chosen = set(preferences())
    parts = [
        f'<path d="M24 796 H{WIDTH - 24}" stroke="{LINE}"/>',
        _text(24, 824, "All 256 structures over W and L, by rank", size=14, weight=600),
    ]
    legend = (560, "the sixteen above", BLUE, BLUE), (710, "other losses", LINE, LINE), (830, NO_LOSS, PAPER, LINE)
    for x, label, fill, stroke in legend:
        parts += [_dot(x, 820, fill, stroke), _text(x + 10, 824, label, size=11.5, fill=FAINT)]
    for number in range(9):
        block = sorted(
            (one for one in structures() if rank(one) == number), key=lambda one: (one not in chosen, not is_loss(one))
        )
        left = 40 + number * 122
        for k, one in enumerate(block):
            fill, stroke = (BLUE, BLUE) if one in chosen else (LINE, LINE) if is_loss(one) else (PAPER, LINE)
            parts.append(_dot(left + 9 * (k // TALL), 854 + 14 * (k % TALL), fill, stroke))
        parts.append(_text(left - 4, 976, f"rank {number}: {len(block)}", size=11.5, fill=FAINT))
    return parts


def _dot(x: float, y: float, fill: str, stroke: str) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="3.2" fill="{fill}" stroke="{stroke}"/>'
