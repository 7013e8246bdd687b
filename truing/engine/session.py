"""Draws in progress over one cascade: prompts come in, rows that are finished leave at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truing.core.lazy import torch
from truing.engine.cascade import Cascade
from truing.engine.choose import Chooser, Row
from truing.engine.tree import common
from truing.engine.vocabulary import project

PREFILL = 4096  # tokens of prompts in one forward pass
BAND = 8  # prompts that are read together to the end of the longest, and the most such bands
WORTH = 0.9  # bands are made where they leave less than this to read
FIRST = 32  # tokens for which a row has room at first; doubled when they are full


@dataclass(eq=False)
class Group:
    """A prompt whose keys and values are there.

    Attributes:
        place: its row in the cascade's prefix.
        length: its tokens after the trunk.
        open: its draws that are not finished.
    """

    place: int
    length: int
    open: int


class Session:
    """The draws of one call.

    Args:
        model: a causal language model of transformers.
        prompts: token ids, each at least one; no two alike.
        choose: makes the next token of every row.
        most: draws in progress at once, >= 1.
        room: the longest reply, tokens.
    """

    def __init__(
        self, model: Any, prompts: Sequence[tuple[int, ...]], choose: Chooser, *, most: int, room: int
    ) -> None:
        self.model, self.prompts, self.choose, self.most, self.room = model, prompts, choose, most, room
        self.rows: list[Row] = []
        self.waiting: list[Row] = []  # their prompt is there, their first token is not drawn
        self.groups: list[Group] = []
        self.of: dict[int, Group] = {}
        self.first: dict[int, torch.Tensor] = {}  # of prompts with rows that wait: their ``(V,)`` logits
        self.state = Cascade()
        self.trunk = common(prompts)

    def __call__(self, queue: Sequence[int], rows_of: Callable[[int], Sequence[Row]]) -> Iterator[Row]:
        """The rows of some prompts, each when it is finished, prompts in the order of the queue."""
        if self.trunk:
            self._forward([list(self.prompts[0][: self.trunk])], start=0, phase="trunk")
        left = list(reversed(queue))
        while left or self.waiting or self.rows:
            self._admit(left, rows_of)
            yield from self._leave()
            if self.rows:
                self._step()
                yield from self._leave()

    def _admit(self, left: list[int], rows_of: Callable[[int], Sequence[Row]]) -> None:
        """Prefill as many prompts as there is room for, a few at once, and start their rows."""
        free = self.most - len(self.rows) - len(self.waiting)
        if left and free > 0 and (free >= self.most // 8 or not self.rows):
            batch: dict[int, Sequence[Row]] = {}
            while left and free > 0:
                prompt = left.pop()
                batch[prompt] = rows_of(prompt)
                self.waiting += batch[prompt]
                free -= len(batch[prompt])
            self._prefill({prompt: len(rows) for prompt, rows in batch.items()})
        count = self.most - len(self.rows)
        if self.waiting and count:
            starting, self.waiting = self.waiting[:count], self.waiting[count:]
            self.choose(starting, torch.stack([self.first[row.prompt] for row in starting]))
            self.first = {row.prompt: self.first[row.prompt] for row in self.waiting}
            self.rows += starting
            self._index()

    def _prefill(self, batch: Mapping[int, int]) -> None:
        """Keys, values and first logits of some prompts with so many draws, packed into rows without padding."""
        prefix, wanted = self.state.prefix, len(self.groups) + len(batch)
        rests = {i: list(self.prompts[i][self.trunk :]) for i in batch}
        rows = wanted if wanted <= prefix.rows else max(wanted, min(2 * prefix.rows, self.most))
        prefix.reserve(rows, max(map(len, rests.values())))
        for part in _portions(rests):
            hidden = self._forward([rests[i] for i in part], start=self.trunk, phase="prefix")[0]
            ends = torch.tensor(self.state.sizes, device=hidden.device).cumsum(0) - 1
            self.first.update(zip(part, project(self.model, hidden[ends]), strict=True))
            for i in part:
                self.of[i] = Group(len(self.groups), len(rests[i]), batch[i])
                self.groups.append(self.of[i])
            self.state.groups = len(self.groups)

    def _forward(self, parts: Sequence[list[int]], *, start: int, phase: str) -> torch.Tensor:
        """Hidden states ``(1, T, D)`` of prompts one after the other in one row, each at positions from ``start``."""
        device, longest = self.model.device, max(map(len, parts))
        self.state.sizes = [len(part) for part in parts]
        sizes = torch.tensor(self.state.sizes)
        at = torch.arange(longest).minimum(sizes[:, None] - 1)
        self.state.packed = (at + (sizes.cumsum(0) - sizes)[:, None]).to(device)
        ids = [token for part in parts for token in part]
        positions = torch.cat([torch.arange(start, start + size) for size in self.state.sizes])
        return self._run(torch.tensor([ids]), positions[None], phase)

    def _run(self, ids: torch.Tensor, positions: torch.Tensor, phase: str) -> torch.Tensor:
        device = self.model.device
        with self.state.running(self.model, phase):
            hidden: torch.Tensor = self.model.base_model(
                input_ids=ids.to(device), position_ids=positions.to(device), use_cache=False
            ).last_hidden_state
        return hidden

    def _step(self) -> None:
        """One more token for every row."""
        state, device = self.state, self.model.device
        written = [len(row.tokens) - 1 for row in self.rows]
        state.reach = max(written) + 1
        state.ragged = (state.ragged[0], min(written) + 1 < state.reach)
        room = max(state.suffix.length, min(FIRST, self.room))
        while room < state.reach:
            room = min(2 * room, self.room)
        state.suffix.reserve(max(self.most, len(self.rows)), room)
        state.step = torch.tensor(written, device=device)
        ids = torch.tensor([[row.tokens[-1]] for row in self.rows])
        hidden = self._run(ids, (self.trunk + state.ahead + state.step)[:, None], "decode")
        self.choose(self.rows, project(self.model, hidden[:, -1]))

    def _leave(self) -> list[Row]:
        """Take finished rows out; the last ones move into their places, so that those in use stay the first."""
        finished = [row for row in self.rows if row.finish is not None]
        if not finished:
            return []
        _close(self.rows, [row.finish is not None for row in self.rows], self.state.suffix.move)
        for row in finished:
            self.of[row.prompt].open -= 1
        _close(self.groups, [not group.open for group in self.groups], self.state.prefix.move)
        for place, group in enumerate(self.groups):
            group.place = place
        if self.rows:
            self._index()
        self.state.groups = len(self.groups)
        return finished

    def _index(self) -> None:
        """Who reads which prompt."""
        state, device = self.state, self.model.device
        groups = [self.of[row.prompt] for row in self.rows]
        counts: dict[int, int] = {}
        slots = []
        for group in groups:
            slots.append(counts.get(group.place, 0))
            counts[group.place] = slots[-1] + 1
        state.groups, state.slots = len(self.groups), max(counts.values())
        places = [group.place * state.slots + slot for group, slot in zip(groups, slots, strict=True)]
        ordered = places == list(range(state.groups * state.slots))
        state.place = None if ordered else torch.tensor(places, device=device)
        state.ahead = torch.tensor([group.length for group in groups], device=device)
        state.longest = max(group.length for group in self.groups)
        state.bands = _bands([group.length for group in self.groups])
        state.ragged = (min(group.length for group in self.groups) < state.longest, state.ragged[1])


def whole_passes(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    choose: Chooser,
    most: int,
    queue: Sequence[int],
    rows_of: Callable[[int], Sequence[Row]],
) -> Iterator[Row]:
    """Draws without any cache, for a model that the cascade does not fit; the rows of a prompt stand at one length."""
    for prompt in queue:
        rows = rows_of(prompt)
        for begin in range(0, len(rows), most):
            own = rows[begin : begin + most]
            while live := [row for row in own if row.finish is None]:
                ids = torch.tensor([[*prompts[prompt], *row.tokens] for row in live], device=model.device)
                logits = model(input_ids=ids, use_cache=False).logits[:, -1]
                choose(live, logits if logits.dtype == torch.float64 else logits.float())
            yield from own


def _portions(rests: Mapping[int, Sequence[int]]) -> Iterator[list[int]]:
    """Prompts in order, as many at once as fit one forward pass, one at least."""
    part: list[int] = []
    size = 0
    for i, rest in rests.items():
        if part and size + len(rest) > PREFILL:
            yield part
            part, size = [], 0
        part.append(i)
        size += len(rest)
    if part:
        yield part


def _bands(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """Stretches of prompts, ``(begin, end, longest)``; one where more would save too little reading to be worth it."""
    size = max(BAND, -(-len(lengths) // BAND))
    cuts = [(at, min(at + size, len(lengths))) for at in range(0, len(lengths), size)]
    bands = [(begin, end, max(lengths[begin:end])) for begin, end in cuts]
    whole = (0, len(lengths), max(lengths))
    read = sum((end - begin) * length for begin, end, length in bands)
    return bands if read < WORTH * len(lengths) * whole[2] else [whole]


def _close(kept: list[Any], gone: Sequence[bool], move: Callable[[Sequence[int], Sequence[int]], None]) -> None:
    """Drop what is gone from a list and fill the gaps from its end; ``move`` does the same with the tensors."""
    count = len(gone) - sum(gone)
    target = [i for i in range(count) if gone[i]]
    source = [i for i in range(count, len(gone)) if not gone[i]]
    move(source, target)
    for old, new in zip(source, target, strict=True):
        kept[new] = kept[old]
    del kept[count:]
