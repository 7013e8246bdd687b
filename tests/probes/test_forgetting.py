"""forget_quality and model_utility against numbers made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from pools import Table
from test_probe_catalogue import Mute, Notes, settings

from truing.core.errors import InputError
from truing.core.policy import Draw, Sampling
from truing.core.rng import Rng
from truing.core.run import Run
from truing.data.facts import load_facts
from truing.probes.catalogue import measure
from truing.probes.forgetting import forget_quality, harmonic, model_utility, rouge_recall, told

FORGET = [
    {"question": f"f{k}?", "answer": f"true {k}", "paraphrase": f"para {k}", "perturbed": [f"no {k}", f"nay {k}"],
     "split": "forget"} for k in range(40)
]  # fmt: skip
KEPT = [
    {"question": "r?", "answer": "a b c d", "paraphrase": "d c", "perturbed": ["x", "y"], "split": "retain"},
    {"question": "w?", "answer": "e f", "perturbed": ["z", "u v"], "split": "world"},
]


class Sure(Table):
    """Says one thing to every question."""

    said = "a x c d"

    def sample(self, chats, *, n: int, sampling: Sampling, rng: Rng) -> list[list[Draw]]:
        assert (n, sampling.temperature) == (1, 0.0)
        return [[Draw(self.said, (1,))] for _ in chats]


def logs(tokens: int, probability: float) -> list[float]:
    """An answer of so many tokens with this probability a token, but not the same for each."""
    nats = np.log(probability) * tokens
    return [nats / 4, *[nats * 3 / 4 / (tokens - 1)] * (tokens - 1)] if tokens > 1 else [nats]


TABLE = {
    "a b c d": logs(4, 0.5), "d c": logs(2, 0.4), "x": logs(1, 0.1), "y": logs(3, 0.2),
    "e f": logs(2, 0.6), "z": logs(1, 0.3), "u v": logs(2, 0.1),
}  # fmt: skip


def test_model_utility_is_the_harmonic_mean_of_numbers_made_by_hand() -> None:
    """Retain: 0.5 a token; a, c, d of four words; 1 - 0.15 / 0.4. World: 0.6 of 1.0, and no word until it says one."""
    given = load_facts(KEPT, "facts")
    (none,) = model_utility(Sure(TABLE), given, run=Run())
    assert none.value == 0.0
    policy = Sure(TABLE)
    policy.said = "a x c d, e"
    (found,) = model_utility(policy, given, run=Run())
    six = [0.5, 0.75, 1 - 0.15 / 0.4, 0.6, 0.5, 1 - 0.2 / 0.6]
    assert found.value == pytest.approx(6 / sum(1 / value for value in six))
    assert (found.n, found.low, found.high) == (2, None, None)
    assert "arithmetic" in found.note
    assert "retain 0.5 0.75 0.625; world 0.6 0.5 0.667" in found.note


def test_the_geometric_mean_is_another_number_and_never_larger() -> None:
    both = {}
    for mean in ("arithmetic", "geometric"):
        given = load_facts({"source": KEPT, "utility_mean": mean}, "facts")
        both[mean] = np.exp(told(Sure(TABLE), given.facts, Run()).log_ratio(mean))
        policy = Sure(TABLE)
        policy.said = "a x c d, e"
        assert mean in model_utility(policy, given, run=Run())[0].note
    np.testing.assert_allclose(both["arithmetic"], [0.15 / 0.4, 0.2 / 0.6])
    np.testing.assert_allclose(both["geometric"], [np.sqrt(0.02) / 0.4, np.sqrt(0.03) / 0.6])
    assert (both["geometric"] < both["arithmetic"]).all()


def test_a_false_answer_likelier_than_the_true_one_scores_nothing() -> None:
    given = load_facts([{**KEPT[0], "perturbed": ["x"]}], "facts")
    (found,) = model_utility(Sure({**TABLE, "x": [0.0]}), given, run=Run())
    assert found.value == 0.0


def test_the_interval_is_from_resampling_within_splits() -> None:
    rows = [{**KEPT[0], "question": f"{k}?", "answer": "a b c d" if k % 2 else "a b"} for k in range(20)]
    policy = Sure({**TABLE, "a b": logs(2, 0.9)})
    (found,) = model_utility(policy, load_facts([*rows, *rows], "facts"), run=Run())
    assert found.low < found.value < found.high
    assert found.n == 40
    assert (found,) == tuple(model_utility(policy, load_facts([*rows, *rows], "facts"), run=Run()))


def knows(strength: float, name: str, spread: float = 0.05) -> Table:
    """A model whose truth ratios are about ``0.5 / strength``."""
    table = {}
    for k in range(40):
        for word, level in (("true", strength), ("para", strength), ("no", 0.5), ("nay", 0.5)):
            table[f"{word} {k}"] = logs(3, min(level * (1 + spread * np.sin(k)), 1.0))
    return Table(table, name=name)


def test_the_same_model_is_never_told_apart() -> None:
    given = load_facts(FORGET, "facts")
    quality, apart = forget_quality(knows(0.9, "one"), knows(0.9, "two"), given, run=Run())
    assert (quality.value, quality.n, quality.low) == (1.0, 40, None)
    assert (apart.value, apart.low, apart.high) == (0.0, 0.0, 0.0)


def test_one_that_still_knows_is_told_apart() -> None:
    given = load_facts(FORGET, "facts")
    quality, apart = forget_quality(knows(0.9, "one"), knows(0.5, "two", spread=0.02), given, run=Run())
    assert quality.value < 1e-6
    assert apart.value == apart.high == 1.0


def test_the_mean_over_false_answers_decides() -> None:
    """0.1 and 0.9 against twice about 0.3: the arithmetic means are apart, the geometric ones are not."""
    wide, even = {}, {}
    for k in range(40):
        level = 0.3 * (1 + 0.1 * np.sin(k))
        for table, pair in ((wide, (0.1, 0.9)), (even, (level, level))):
            table |= {f"true {k}": logs(2, 0.5), f"para {k}": logs(2, 0.5)}
            table |= {f"no {k}": logs(2, pair[0]), f"nay {k}": logs(2, pair[1])}
    tables = Table(wide, name="wide"), Table(even, name="even")
    apart = {}
    for mean in ("arithmetic", "geometric"):
        given = load_facts({"source": FORGET, "quality_mean": mean}, "facts")
        apart[mean] = forget_quality(*tables, given, run=Run())[1].value
    assert apart["arithmetic"] == 1.0
    assert apart["geometric"] == pytest.approx(0.5, abs=0.05)


def test_rouge_recall() -> None:
    assert rouge_recall("a b c", "a b c") == 1.0
    assert rouge_recall("c b a", "a b c") == pytest.approx(1 / 3)
    assert rouge_recall("x a y b z", "A, b!") == 1.0
    assert rouge_recall("", "a") == 0.0


def test_the_harmonic_mean() -> None:
    assert harmonic([1.0] * 8 + [0.0]) == 0.0
    assert harmonic([0.5, 1.0]) == pytest.approx(2 / 3)


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(InputError, match="no fact is in the split"):
        forget_quality(Sure(TABLE), Sure(TABLE), load_facts(KEPT, "f"), run=Run())
    with pytest.raises(InputError, match="every fact"):
        model_utility(knows(0.9, "one"), load_facts(FORGET, "f"), run=Run())


def test_in_the_catalogue_what_cannot_be_taken_is_left_out_aloud() -> None:
    names, pool = ["forget_quality", "model_utility"], settings()["base"]
    policy, facts = Sure({**TABLE, **knows(0.9, "x").replies}), load_facts([*FORGET, *KEPT], "f")
    full = {"policy": policy, "facts": facts, "retrained": knows(0.5, "two")}
    assert [m.probe for m in measure(names, pool, **settings(**full))] == [
        "forget_quality", "forget_quality.distance", "model_utility"
    ]  # fmt: skip
    for changed, told_of in (
        ({"facts": None}, "there are no facts"),
        ({"policy": Mute()}, "does not tell log-probabilities"),
        ({"retrained": None, "facts": load_facts(FORGET, "f")}, "no retrained model"),
        ({"facts": load_facts(KEPT, "f")}, "no fact is in the split"),
    ):
        log = Notes()
        measure(names, pool, **settings(**{**full, "run": Run(log=log), **changed}))
        assert any(told_of in line for line in log.said), (changed, log.said)
