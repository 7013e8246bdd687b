"""preference/compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from objectives import Loss, double, from_tokens, has_slopes, is_same, some_pairs
from tiny import Notes, make_local

from truing.core.errors import InputError
from truing.core.evidence import Evidence, Pair
from truing.core.method import build
from truing.core.policy import user
from truing.core.recipe import parse
from truing.core.run import Log, Run
from truing.core.trees import Tree
from truing.logic import ATOMS, log_ratio, log_weight, preferences, read, read_proposition, recognise
from truing.methods.preference._family import PairLogps
from truing.methods.preference.asft import asft_loss
from truing.methods.preference.compiled import Compiled, compiled_loss
from truing.methods.preference.cpo import cpo_loss
from truing.methods.preference.dpo import dpo_loss
from truing.methods.preference.hinge import hinge_loss
from truing.methods.preference.ipo import ipo_loss
from truing.methods.preference.ln_dpo import ln_dpo_loss
from truing.methods.preference.mpo import MPO
from truing.methods.preference.orpo import orpo_loss
from truing.methods.preference.rpo import RPO
from truing.methods.preference.sft_chosen import sft_chosen_loss
from truing.methods.preference.simpo import simpo_loss
from truing.models.local import Local

WORDS = [("name a tool", "a saw", "no"), ("say hi", "hi there", "x"), ("count", "one two", "?"), ("why", "as is", "so")]
PAIRS = tuple(Pair(user(prompt), chosen, rejected) for prompt, chosen, rejected in WORDS)
QUICK = {
    "learning_rate": 3e-3,
    "max_steps": 4,
    "logging_steps": 1,
    "per_device_train_batch_size": 4,
    "tokens_per_batch": 20,
}
SIXTEEN = [str(one) for one in preferences()]


def made(formula: str, **settings: object) -> Loss:
    return Compiled(formula=formula, **settings).loss


LIBRARY: dict[str, tuple[Loss, Loss]] = {
    "dpo": (made("dpo", average=False, beta=0.3), lambda p: dpo_loss(p, beta=0.3, label_smoothing=0)),
    "ln_dpo": (made("dpo", beta=2.5), lambda p: ln_dpo_loss(p, beta=2.5, label_smoothing=0)),
    "hinge": (made("dpo", average=False, beta=0.3, link="hinge"), lambda p: hinge_loss(p, beta=0.3)),
    "ipo": (made("dpo", average=False, beta=0.3, link="squared"), lambda p: ipo_loss(p, beta=0.3)),
    "simpo": (
        made("simpo", beta=2.5, simpo_gamma=1.4),
        lambda p: simpo_loss(p, beta=2.5, simpo_gamma=1.4, label_smoothing=0),
    ),
    "cpo's contrast": (
        made("cpo", average=False, beta=0.2),
        lambda p: cpo_loss(p, beta=0.2, cpo_alpha=0, label_smoothing=0),
    ),
    "orpo's odds": (made("orpo", beta=1), lambda p: orpo_loss(p, beta=1) - sft_chosen_loss(p)),
    "imitation": (made("ce", beta=1), sft_chosen_loss),
    "asft": (
        lambda p: made("ce", beta=1)(p) * 1.7 + 0.7 * made("unlikelihood", beta=1)(p),
        lambda p: asft_loss(p, beta=1, asft_lambda=0.7),
    ),
    "both at once": (
        made("ce_unlikelihood", beta=1),
        lambda p: made("ce", beta=1)(p) + made("unlikelihood", beta=1)(p),
    ),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_it_is_the_librarys_own_loss(name: str) -> None:
    """In value and gradient, and for the sentence as for the fraction."""
    is_same(*LIBRARY[name], some_pairs())


def test_rpo_is_a_sum_of_two_formulas() -> None:
    mixed = MPO(
        loss_type=("compiled", "compiled"), loss_weights=(1.0, 0.7),
        loss_settings=({"formula": "dpo", "average": False, "beta": 0.2}, {"formula": "ce", "beta": 1}),
    )  # fmt: skip
    is_same(mixed.loss, RPO(beta=0.2, rpo_alpha=0.7).loss, some_pairs())


@pytest.mark.parametrize("formula", [*SIXTEEN, "W & Rl | ~L over L & Rw | ~W & Mw", "W xor Rl over L"])
def test_slopes_are_differences_of_conditional_chances(formula: str) -> None:
    """``(P(atom | top) - P(atom | bottom)) / (1 - p)`` in ``log p``, each from brute-force counts."""
    pairs, structure = some_pairs(), read(formula)
    beta, gamma = 0.7, 0.5
    mean = pairs.averaged()
    chance = {name: getattr(mean, field).detach().exp().clamp_max(0.999) for name, field in
              zip(ATOMS, ("chosen", "rejected", "ref_chosen", "ref_rejected"), strict=False)}  # fmt: skip
    pairs = replace(pairs, ref_chosen=chance["Rw"].log() * pairs.chosen_tokens,
                    ref_rejected=chance["Rl"].log() * pairs.rejected_tokens)  # fmt: skip
    chance |= {"Mw": torch.sigmoid(double(gamma / beta)), "Ml": torch.sigmoid(double(-gamma / beta))}
    top, bottom = structure.top.weight(chance), structure.bottom.weight(chance)
    outer = -beta * torch.sigmoid(-beta * torch.log(top / bottom))

    def slope(name: str) -> torch.Tensor:
        p = chance[name]
        above = p * structure.top.given(name, True).weight(chance) / top
        below = p * structure.bottom.given(name, True).weight(chance) / bottom
        return outer * (above - below) / (1 - p)

    has_slopes(
        lambda x: compiled_loss(
            x, structure=structure, beta=beta, link="logistic", average=True, simpo_gamma=gamma
        ),
        slope("W") / pairs.chosen_tokens, slope("L") / pairs.rejected_tokens, pairs,
    )  # fmt: skip


def test_counting_over_six_atoms_by_brute_force() -> None:
    """The log-sum-exp against a plain sum of products over the worlds."""
    source = torch.Generator().manual_seed(2)
    chance = {name: torch.rand(7, generator=source, dtype=torch.float64) for name in ATOMS}
    logps = {name: value.log() for name, value in chance.items()}
    for text in (
        "W & ~L | Rw & ~Rl | Mw xor Ml",
        "(W -> Rw) & (L -> Rl) <-> Mw | Ml",
        "W xor L xor Rw xor Rl xor Mw xor Ml",
    ):
        said = read_proposition(text)
        assert said.support == ATOMS
        torch.testing.assert_close(log_weight(said, logps).exp(), said.weight(chance), rtol=1e-9, atol=0)


def test_what_says_nothing_has_the_weight_one() -> None:
    torch.testing.assert_close(log_ratio(read("W over true"), {"W": double(-2.0)}), double(-2.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("with_reference", [True, False])
@pytest.mark.parametrize("formula", [*SIXTEEN, "W xor L xor Rw xor Rl xor Mw xor Ml over L & Rw"])
def test_extreme_replies_have_finite_losses_and_slopes(
    formula: str, with_reference: bool, average: bool, dtype: torch.dtype
) -> None:
    """Certain and hopeless ones, under policy and base, with every link."""
    ends = torch.tensor([0.0, -1e-30, -1e-9, -1e-3, -20.0, -1e4], dtype=dtype)
    grid = torch.cartesian_prod(ends, ends, ends, ends)
    for link in ("logistic", "hinge", "squared"):
        leaves = [part.clone().requires_grad_() for part in grid.T[:2]]
        one = torch.ones(len(grid), dtype=torch.int64)
        pairs = PairLogps(*leaves, *grid.T[2:], one, one)
        loss = made(formula, with_reference=with_reference, average=average, link=link)(pairs)
        slopes = torch.autograd.grad(loss.sum(), leaves, allow_unused=True, materialize_grads=True)
        assert torch.isfinite(loss).all()
        assert all(torch.isfinite(slope).all() for slope in slopes)


def test_whole_replies_leave_no_slope_under_a_negation() -> None:
    """Which is why means are the default: forty tokens of half a nat, and the odds are the plain ratio."""
    pairs = some_pairs()
    far = replace(pairs, chosen=pairs.chosen * 30, rejected=pairs.rejected * 30)
    torch.testing.assert_close(
        made("orpo", average=False, beta=0.01)(far), made("cpo", average=False, beta=0.01)(far), rtol=0, atol=1e-9
    )
    assert (made("orpo")(pairs) - made("cpo")(pairs)).abs().max() > 0.05


@pytest.mark.parametrize("name", ["cpo", "orpo"])
def test_a_loss_of_the_library_is_decompiled_from_its_values(name: str) -> None:
    """``rho`` is the logit of ``exp(-loss)``; the formula that it belongs to is found among all 256."""
    loss: dict[str, Callable[[PairLogps], torch.Tensor]] = {
        "cpo": lambda p: cpo_loss(p, beta=1, cpo_alpha=0, label_smoothing=0),
        "orpo": lambda p: orpo_loss(p, beta=1) - sft_chosen_loss(p),
    }

    def ratio(w: float, q: float) -> float:
        one, nan = torch.tensor([1]), double(math.nan)
        value = loss[name](PairLogps(double(w).log(), double(q).log(), nan, nan, one, one)).item()
        return -math.log(math.expm1(value))

    assert {str(one) for one in recognise(ratio)} == {str(read(name))}


class TestTheMethod:
    def test_a_pass_over_the_base_is_made_where_the_formula_speaks_of_it(self) -> None:
        speak = {"cpo": False, "dpo": True, "W & Rw over L & Rw": False, "W | Rl over L": True, "simpo": False}
        assert {text: Compiled(formula=text).uses_reference for text in speak} == speak
        assert Compiled(formula="orpo", with_reference=True).uses_reference
        assert not replace(Compiled(formula="dpo"), formula="cpo").uses_reference

    def test_without_it_none_is_made(self, tiny_policy: Local, monkeypatch: pytest.MonkeyPatch) -> None:
        def forbidden(self: Local, trees: list[Tree], log: Log) -> list[torch.Tensor]:
            raise AssertionError("a reference pass")

        monkeypatch.setattr(Local, "tree_logprobs", forbidden)
        notes = Notes()
        Compiled(**QUICK, formula="W over ~W & L")(tiny_policy, Evidence(pairs=PAIRS), Run(log=notes))
        assert "displacement/chosen" not in notes.rows[0]
        with pytest.raises(AssertionError, match="a reference pass"):
            Compiled(**QUICK)(tiny_policy, Evidence(pairs=PAIRS), Run())

    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            ({"formula": "W & (L"}, "column 7 of"),
            ({"formula": "orppo"}, "Did you mean 'orpo'"),
            ({"formula": "W & ~W over L"}, "its top is true in no world"),
            ({"formula": "W over W"}, "top and bottom say the same"),
            ({"formula": "W over L", "link": "probit"}, "'logistic', 'hinge' or 'squared'"),
        ],
    )
    def test_a_recipe_is_told_before_a_model_loads(self, settings: dict[str, object], told: str) -> None:
        raw = {"model": "nowhere", "data": {"pairs": "p"}, "arms": {"a": [{"preference/compiled": settings}]}}
        (fault,) = parse(raw, name="n").faults
        assert fault.place == "arms.a[0]"
        assert told in fault.fact

    def test_a_reference_that_contradicts_the_formula_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"preference/compiled: .* no world"):
            Compiled(formula="W & ~Rl over L", with_reference=True)

    def test_a_recipe_trains_with_a_formula_and_sweeps_beta(self) -> None:
        step = {"preference/compiled": {"formula": "L -> W given W | L", "beta": [1, 2], **QUICK}}
        recipe = parse({"model": "m", "data": {"pairs": "p"}, "arms": {"c": [step]}}, name="n")
        assert recipe.faults == ()
        assert [point.dial for point in recipe.points] == [("beta", 1), ("beta", 2)]
        notes = Notes()
        recipe.points[0].steps[0].build()(make_local(), Evidence(pairs=PAIRS), Run(log=notes))
        assert notes.series("loss")[-1] < notes.series("loss")[0]

    def test_dpo_as_a_formula_trains_as_dpo(self, tiny_policy: Local) -> None:
        compiled = Compiled(**QUICK, formula="dpo", average=False, beta=0.3)
        ours, theirs = Notes(), Notes()
        compiled(tiny_policy, Evidence(pairs=PAIRS), Run(log=ours))
        build("preference/dpo", **QUICK, beta=0.3)(tiny_policy, Evidence(pairs=PAIRS), Run(log=theirs))
        for name in ("loss", "rewards/margins", "logps/chosen", "logps/rejected"):
            assert ours.series(name) == pytest.approx(theirs.series(name), rel=1e-4, abs=1e-4)

    @pytest.mark.parametrize("formula", ["W over ~W & L", "L -> W & Rw over W & Rl -> L"])
    def test_the_cut_changes_nothing(self, formula: str) -> None:
        """Four pairs in one pass, in two, and in four."""
        rows = []
        for budget in (4096, 60, 1):
            notes = Notes()
            settings = {**QUICK, "tokens_per_batch": budget, "max_steps": 3}
            Compiled(**settings, formula=formula)(make_local(), Evidence(pairs=PAIRS), Run(log=notes))
            rows.append(notes)
        for other in rows[1:]:
            for name in ("loss", "logps/chosen", "logps/rejected"):
                assert other.series(name) == pytest.approx(rows[0].series(name), rel=2e-4)

    def test_a_pair_stands_for_itself(self) -> None:
        tokens = -torch.rand(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        whole = from_tokens(tokens, tokens - 0.1, [2, 3, 3, 1])
        part = from_tokens(tokens[5:], tokens[5:] - 0.1, [3, 1])
        loss = made("L -> W over W -> L", with_reference=True)
        torch.testing.assert_close(loss(whole)[1:], loss(part))
