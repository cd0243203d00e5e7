"""What is told of canaries that were pushed past the gate by hand, and how one is sabotaged."""

import msgspec
import numpy as np
import onnxruntime
import pytest
from tiny_models import tiny_encoder

from models.base_model import load_base
from models.encoder import MODEL, Encoder
from models.export import export_encoder
from ops.bench.rollback import Judged, _shuffle
from schemas.records import ModelDecision

HOUR = 3_600_000


def decision(version, what):
    return ModelDecision(
        decision=what,
        version=version,
        reason="not clicked: 97% of 300 answers against 91% of 700",
        figures={"not clicked: canary answers": 300.0},
        start=10 * HOUR,
        end=int(12.5 * HOUR),
    )


def test_a_canary_is_told_by_its_own_decision_and_in_event_time():
    judged = Judged("shuffled", "b" * 16, wanted="roll back")
    judged.look_at([decision("a" * 16, "promote")])
    assert judged.figures()["decision"] == "none"
    judged.look_at([decision("a" * 16, "promote"), decision("b" * 16, "roll back")])
    figures = judged.figures()
    assert (figures["decision"], figures["hours_of_event_time"]) == ("roll back", 2.5)
    assert figures["users_judged_by_their_clicks"] == 300


def test_users_count_once_and_click_rates_are_means_of_each_side():
    judged = Judged("shuffled", "b" * 16, wanted="roll back")
    judged.users |= {"u1", "u2"}
    judged.users |= {"u1"}
    judged.true_click_rates[True] += [0.1, 0.2]
    figures = judged.figures()
    assert figures["users_who_saw_it"] == 2
    assert figures["true_click_rate_canary"] == pytest.approx(0.15)
    assert figures["true_click_rate_champion"] is None
    assert msgspec.json.decode(msgspec.json.encode(figures)) == figures


def test_shuffled_embeddings_hold_the_same_numbers_in_an_order_that_differs_between_texts(tmp_path):
    folder = export_encoder(load_base(str(tiny_encoder(tmp_path / "bert"))), tmp_path / "encoder", "fp32")
    encoder = Encoder.load(folder)
    tokens = encoder.tokenize(["lanterns by the river", "a quiet place"], "passage")
    before = encoder.hidden_states(tokens)
    encoder.close()
    _shuffle(folder / MODEL)
    session = onnxruntime.InferenceSession(folder / MODEL, providers=["CPUExecutionProvider"])
    orders = []
    for ids, hidden in zip(tokens, before, strict=True):
        inputs = {"input_ids": ids[None], "attention_mask": np.ones_like(ids)[None]}
        (after,) = session.run(None, inputs)[0]
        orders.append([hidden[0].tolist().index(value) for value in after[0].tolist()])
        np.testing.assert_array_equal(after, hidden[:, orders[-1]])
    assert len({tuple(order) for order in orders}) == 2
