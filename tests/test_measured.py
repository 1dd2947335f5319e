"""What notebooks/measured computes, against hand computation."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from test_evaluation import random_case

from lvmlib.files import project_folder
from lvmlib.inference import predict
from lvmlib.models import build_model

sys.path.append(str(project_folder() / "notebooks" / "measured"))
import copying
import rolled
import sets


def test_copying_is_a_ratio_of_nearness():
    dataset, windows, _ = random_case(5, [12, 14], 3, 6)
    unit = dataset.gather(np.arange(dataset.n))
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    truth = unit[windows[:, -1]]
    np.testing.assert_allclose(
        copying.copying(3 * truth, dataset, windows), 1, rtol=1e-5
    )
    copied = copying.copying(unit[windows[:, 0]], dataset, windows)
    nearest = np.einsum("wcd,wd->wc", unit[windows[:, :-1]], truth).max(axis=1)
    np.testing.assert_allclose(copied, 1 / nearest, rtol=1e-5)


def test_a_mean_that_was_read_is_no_candidate():
    dataset, windows, raw = random_case(3, [9, 12, 8], 4, 6)
    read = np.column_stack([dataset.n + windows[:, -2], windows])
    for scored in (copying.copying, copying.k_occurrence_skew):
        assert np.array_equal(scored(raw, dataset, read), scored(raw, dataset, windows))


def test_hubs_skew_how_often_a_candidate_is_found():
    dataset, windows, _ = random_case(5, [40, 44], 2, 6)
    truth = dataset.gather(windows[:, -1])
    same = np.tile(truth[:1], (len(truth), 1))  # all windows find the same ten
    hubs = copying.k_occurrence_skew(same, dataset, windows)
    assert hubs > copying.k_occurrence_skew(truth, dataset, windows)
    # By hand, with k = 1: each truth finds itself, so that it is found once.
    found = np.isin(np.unique(windows), windows[:, -1]).astype(float)
    centred = found - found.mean()
    expected = (centred**3).mean() / (centred**2).mean() ** 1.5
    skew = copying.k_occurrence_skew(truth, dataset, windows, k=1)
    assert skew == pytest.approx(expected)


def test_a_rolled_prediction_reads_its_own_predictions():
    model = build_model("amn", dim=8, context=3, hidden=4, mlp=8)
    context = np.random.default_rng(0).normal(size=(5, 3, 8)).astype(np.float32)
    context /= np.linalg.norm(context, axis=-1, keepdims=True)
    first = predict(model, context)
    np.testing.assert_array_equal(rolled.roll(model, context, 1), first)
    longer = np.concatenate([context, first[:, None]], axis=1)
    second = predict(model, longer[:, 1:])
    np.testing.assert_array_equal(rolled.roll(model, context, 2), second)
    longer = np.concatenate([longer, second[:, None]], axis=1)
    np.testing.assert_array_equal(
        rolled.roll(model, context, 3), predict(model, longer[:, 2:])
    )


def test_the_vendi_score_counts_directions():
    one = np.tile(np.eye(6)[:1], (40, 1)).astype(np.float32)
    assert sets.vendi_score(one) == pytest.approx(1)
    three = np.tile(np.eye(6)[:3], (20, 1)).astype(np.float32)
    assert sets.vendi_score(three) == pytest.approx(3)
    # By its definition, from the N x N similarities.
    vectors = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(vectors.astype(float) @ vectors.T / 30)
    values = values[values > 1e-12]
    expected = np.exp(-(values * np.log(values)).sum())
    assert sets.vendi_score(vectors) == pytest.approx(expected)
