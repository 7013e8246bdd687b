"""What the tests of the report share: short ways to write measures down and to read a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from truing.report import document
from truing.report.study import gather

Spec = Mapping[str, Any]
MakeRun = Callable[..., Path]


def win(value: float, half: float = 0.04, n: int = 100, **more: Any) -> Spec:
    """Settings of a win rate with a symmetric interval."""
    return {"win_rate": {"value": value, "low": value - half, "high": value + half, "n": n, "better": "up", **more}}


def kl(value: float, half: float = 0.05, **more: Any) -> Spec:
    """Settings of a KL."""
    low, high = (None, None) if more.get("kind") == "bound" else (value - half, value + half)
    return {"kl": {"value": value, "low": low, "high": high, "n": 100, "unit": "nats", "better": "down", **more}}


def page_of(folder: Path) -> str:
    return document.page(gather([folder]))


class Reader(HTMLParser):
    """What a browser would see: elements with attributes, text, and the content of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and not self.ended:
            self.scripts[-1] += data
        else:
            self.words.append(data)

    @property
    def ended(self) -> bool:
        return self.cdata_elem is None

    @property
    def text(self) -> str:
        return "".join(self.words)

    @property
    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts[1])
        return found
