"""merge/ram."""

from __future__ import annotations

from bags import close, merged, vector


def test_what_one_changed_is_kept_and_what_several_did_is_averaged() -> None:
    base, one, other = vector(1, 1, 1, 1), vector(3, 1, 2, 1), vector(1, 1, 4, 1 + 1e-7)
    close(merged("merge/ram", base, one, other), [3, 1, 1 + (1 + 3) / 2, 1])
