"""merge/extract_lora."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import make_local

from truing.core.artefact import save_policy
from truing.core.evidence import Evidence
from truing.core.run import Run
from truing.methods.merge.extract_lora import ExtractLora, low_rank


def test_it_is_the_nearest_matrix_of_its_rank() -> None:
    """Against the singular values themselves: what is missing is the sum of the squares of those left out."""
    delta = torch.randn(7, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linalg.svdvals(delta)
    for rank in (1, 3, 7, 20):
        up, down = low_rank(delta, rank=rank)
        missing = (delta - up @ down).square().sum()
        torch.testing.assert_close(missing, values[rank:].square().sum(), rtol=1e-10, atol=1e-10)


def test_a_change_of_that_rank_is_found_whole() -> None:
    source = torch.Generator().manual_seed(0)
    delta = torch.randn(9, 2, generator=source) @ torch.randn(2, 8, generator=source)
    up, down = low_rank(delta, rank=2)
    torch.testing.assert_close(up @ down, delta, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_peft_reads_the_folder_and_gives_the_merged_model(architecture: str, tmp_path: Path) -> None:
    import peft

    base, donor = make_local(architecture), make_local(architecture, seed=1)
    made = ExtractLora(rank=40)(base, Evidence(donors={"a": donor}), Run())
    assert torch.equal(made.weights()[first(made)], base.weights()[first(made)])
    save_policy(made, tmp_path / "out")
    model = peft.PeftModel.from_pretrained(make_local(architecture).model, tmp_path / "out" / "adapter")
    for name, tensor in model.merge_and_unload().named_parameters():
        torch.testing.assert_close(tensor.detach(), made.weights()[name], rtol=1e-4, atol=1e-5)


def first(policy: object) -> str:
    """The embedding, which no adapter changes."""
    return next(name for name in policy.weights() if "embed" in name or "wte" in name)  # type: ignore[attr-defined] # it is editable
