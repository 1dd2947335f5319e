from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial import distance
from scipy.stats import rankdata

from lvmlib import evaluation, moments
from lvmlib.evaluation import (
    RANKINGS,
    cosine,
    fit_baselines,
    score_windows,
    summarise,
)
from lvmlib.inference import predict_windows
from lvmlib.models import build_model, linear
from lvmlib.vectors import Dataset, Split, make_split, open_dataset
from lvmlib.weights import load_weights, save_weights

NAMES = [
    "last_vector",
    "context_average",
    "five_weights",
    "six_numbers",
    "ridge",
    "ridge_to_weights",
    "mean_vector",
]


def outputs(model, context):
    """Return raw predictions (B, D) of contexts (B, C, D)."""
    with torch.no_grad():
        return model(torch.from_numpy(np.asarray(context, np.float32))).numpy()


def baseline_cosine(model, dataset, windows):
    raw = predict_windows(model, dataset, windows)
    return cosine(raw, dataset.gather(windows[:, -1]))


class Recorder(Dataset):
    """A dataset in memory that remembers which rows were asked for."""

    def gather(self, rows):
        self.info.setdefault("touched", set()).update(np.ravel(rows).tolist())
        return super().gather(rows)


def in_memory(vectors, lengths):
    """A dataset of documents of the given lengths."""
    stops = np.cumsum(lengths)
    documents = pd.DataFrame({"start": stops - lengths, "stop": stops})
    return Recorder(None, {}, documents, np.asarray(vectors, dtype=np.float32), None)


def windows_of(lengths, context):
    """All windows inside the documents, in reading order."""
    starts = np.cumsum(lengths) - lengths
    return np.array(
        [
            np.arange(start + i, start + i + context + 1)
            for start, length in zip(starts, lengths, strict=True)
            for i in range(length - context)
        ]
    )


def random_case(seed, lengths, context, dim):
    """Correlated random unit vectors, their windows, and raw predictions."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((sum(lengths), dim)) + rng.standard_normal(dim)
    vectors[1:] += 0.5 * vectors[:-1]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    windows = windows_of(lengths, context)
    raw = vectors[windows[:, -1]] + 0.2 * rng.standard_normal((len(windows), dim))
    return in_memory(vectors, lengths), windows, raw.astype(np.float32)


def test_a_mean_that_was_read_is_no_candidate():
    dataset, windows, raw = random_case(3, [9, 12, 8], 4, 6)
    read = np.column_stack([dataset.n + windows[:, -2], windows])
    found, plain = (score_windows(raw, dataset, w) for w in (read, windows))
    pd.testing.assert_frame_equal(found, plain)


def on_circle(degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def training_error(baseline, dataset, windows):
    vectors = dataset.gather(windows).astype(np.float64)
    return np.square(outputs(baseline, vectors[:, :-1]) - vectors[:, -1]).sum()


# --- cosine -------------------------------------------------------------------------


def test_cosine_is_scipys():
    a, b = np.random.default_rng(0).standard_normal((2, 20, 7)).astype(np.float32)
    expected = [1 - distance.cosine(*pair) for pair in zip(a, b, strict=True)]
    np.testing.assert_allclose(cosine(a, b), expected, atol=1e-6)


def test_cosine_of_zero_is_zero_and_of_tiny_vectors_is_right():
    a = np.array([[0, 0], [3e-30, 4e-30], [3e30, 4e30]], dtype=np.float32)
    b = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    np.testing.assert_allclose(cosine(a, b), [0, 0.6, 0.8], atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_cosine_refuses_non_finite_values_and_different_shapes(value):
    good = np.ones((2, 3), dtype=np.float32)
    bad = good.copy()
    bad[1, 2] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        cosine(bad, good)
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 2\)"):
        cosine(good, good[:, :2])


# --- retrieval ----------------------------------------------------------------------


def test_scores_by_hand():
    # Two documents of four vectors; similarity falls with the angle.
    vectors = on_circle([0, 20, 50, 90, 10, 200, 60, 130])
    dataset = in_memory(vectors, [4, 4])
    windows = windows_of([4, 4], context=2)
    # The third prediction points at a context vector, the last is zero.
    raw = on_circle([24, 120, 10, 0]) * [[3], [1], [1], [0]]
    scores = score_windows(raw, dataset, windows)
    expected = pd.DataFrame(
        {
            "document": [0, 0, 1, 1],
            "row": [2, 3, 6, 7],
            "rank_document": [1, 1, 1, 2],
            "rank_all": [2, 2, 4, 6],
            "rank_document_with_context": [3, 1, 2, 4],
            "rank_all_with_context": [4, 2, 5, 8],
            "contrastive": [1, 0.5, 0.5, 0.5],
        }
    )
    pd.testing.assert_frame_equal(scores[[*expected]], expected, check_dtype=False)
    angles = np.cos(np.radians([26, 30, 50]))
    np.testing.assert_allclose(scores["cosine"], [*angles, 0], atol=1e-6)
    # |3p − t|² = 9 + 1 − 6 cos, |p − t|² = 2 − 2 cos, |0 − t|² = 1; mean of 2 numbers.
    errors = [10 - 6 * angles[0], *(2 - 2 * angles[1:]), 1]
    np.testing.assert_allclose(scores["squared_error"], np.divide(errors, 2), atol=1e-6)


@pytest.mark.parametrize(("context", "dim"), [(1, 3), (2, 5), (5, 16)])
def test_ranks_are_scipys_and_ties_count_against(context, dim):
    lengths = [9, 12, 8]
    dataset, windows, raw = random_case(1, lengths, context, dim)
    dataset.vectors[22:28] = dataset.vectors[10:16]  # the same text in two documents
    scores = score_windows(raw, dataset, windows)
    document = np.repeat([0, 1, 2], lengths)
    targets = np.unique(windows[:, -1])
    for i, (*before, truth) in enumerate(windows):
        distances = np.array([distance.cosine(raw[i], v) for v in dataset.vectors])
        distances = distances.round(6)
        inside = document == document[truth]
        left = ~np.isin(np.arange(len(document)), before)
        for name, members in {
            "rank_all_with_context": inside | True,
            "rank_all": left,
            "rank_document_with_context": inside,
            "rank_document": inside & left,
        }.items():
            rank = rankdata(distances[members], method="max")
            position = np.flatnonzero(np.flatnonzero(members) == truth)[0]
            assert scores[name][i] == rank[position]
        others = distances[targets[~inside[targets]]]
        share = np.mean(others > distances[truth])
        share += np.mean(others == distances[truth]) / 2
        assert scores["contrastive"][i] == pytest.approx(share)


def test_blocks_change_nothing(monkeypatch):
    dataset, windows, raw = random_case(2, [20, 30, 10], 5, 12)
    whole = score_windows(raw, dataset, windows)
    monkeypatch.setattr(evaluation, "SIMILARITIES", 7 * dataset.n)
    pd.testing.assert_frame_equal(score_windows(raw, dataset, windows), whole)


def test_order_of_windows_does_not_matter():
    dataset, windows, raw = random_case(3, [20, 30, 10], 5, 12)
    order = np.random.default_rng(0).permutation(len(windows))
    shuffled = score_windows(raw[order], dataset, windows[order])
    whole = score_windows(raw, dataset, windows).iloc[order].reset_index(drop=True)
    pd.testing.assert_frame_equal(shuffled, whole)


@pytest.mark.parametrize("scale", [1e-8, 1e4])
def test_length_of_predictions_matters_to_the_squared_error_only(scale):
    dataset, windows, raw = random_case(3, [20, 30, 10], 5, 12)
    scores = score_windows(raw, dataset, windows).drop(columns="squared_error")
    scaled = score_windows(raw * scale, dataset, windows)
    pd.testing.assert_frame_equal(scaled.drop(columns="squared_error"), scores)


def test_zero_and_constant_predictions_get_no_free_hits():
    dataset, windows, raw = random_case(4, [30, 40], 5, 12)
    zero = score_windows(np.zeros_like(raw), dataset, windows)
    assert (zero["rank_all_with_context"] == dataset.n).all()
    assert (zero["rank_all"] == dataset.n - 5).all()
    assert (zero["contrastive"] == 0.5).all()
    summary = summarise(zero)
    assert all(summary[f"r10_{ranking}"] == 0 for ranking in RANKINGS)
    constant = score_windows(np.tile(raw[:1], (len(raw), 1)), dataset, windows)
    # One order of the candidates for all windows: each rank is taken once at most.
    assert constant["rank_all_with_context"].is_unique
    # All vectors alike: nothing can be told apart, whatever the prediction.
    same = in_memory(np.tile(dataset.vectors[0], (70, 1)), [30, 40])
    alike = score_windows(raw, same, windows)
    assert (alike["rank_all_with_context"] == 70).all()
    assert (alike["contrastive"] == 0.5).all()


def test_perfect_and_copying_predictions():
    dataset, windows, _ = random_case(5, [30, 40], 5, 12)
    perfect = summarise(
        score_windows(dataset.vectors[windows[:, -1]], dataset, windows)
    )
    assert perfect["cosine"] == pytest.approx(1)
    assert perfect["mse"] == 0
    assert perfect["contrastive"] == 1
    assert all(perfect[f"r1_{r}"] == perfect[f"mrr_{r}"] == 1 for r in RANKINGS)
    copies = summarise(score_windows(dataset.vectors[windows[:, -2]], dataset, windows))
    assert copies["r1_all_with_context"] == 0
    assert copies["r1_all"] > 0


def test_score_windows_refuses_what_does_not_fit():
    dataset, windows, raw = random_case(6, [10, 10], 5, 4)
    with pytest.raises(ValueError, match=r"shape \(9, 4\), expected .* \(10, 4\)"):
        score_windows(raw[:-1], dataset, windows)
    with pytest.raises(ValueError, match="NaN or infinite"):
        score_windows(np.where(raw == raw[3, 1], np.nan, raw), dataset, windows)
    with pytest.raises(ValueError, match="one document"):
        score_windows(raw[:5], dataset, windows[:5])
    with pytest.raises(ValueError, match=r"windows have shape \(0, 6\)"):
        score_windows(raw[:0], dataset, windows[:0])


def test_summary_by_hand():
    ranks = {f"rank_{r}": [1, 4, 10, 20] for r in RANKINGS[1:]}
    scores = pd.DataFrame(
        {
            "document": [3, 3, 3, 8],
            "cosine": [0.1, 0.2, 0.3, 0.8],
            "squared_error": [1.0, 2.0, 3.0, 4.0],
            "contrastive": [1.0, 1.0, 0.5, 0.5],
            "rank_document": [1, 1, 2, 6],
            **ranks,
        }
    )
    summary = summarise(scores)
    assert len(summary) == 5 + 4 * 4
    assert summary["cosine"] == pytest.approx(0.35)
    assert summary["mse"] == 2.5
    assert summary["contrastive"] == 0.75
    assert (summary["windows"], summary["documents"]) == (4, 2)
    hits = [summary[f"r{k}_document"] for k in (1, 5, 10)]
    assert hits == [0.5, 0.75, 1]
    assert summary["mrr_document"] == pytest.approx((1 + 1 + 1 / 2 + 1 / 6) / 4)
    for ranking in RANKINGS[1:]:
        assert [summary[f"r{k}_{ranking}"] for k in (1, 5, 10)] == [0.25, 0.5, 0.75]
        assert summary[f"mrr_{ranking}"] == pytest.approx((1 + 0.25 + 0.1 + 0.05) / 4)


# --- baselines ----------------------------------------------------------------------


def dense_ridge(dataset, train, context, exponent):
    """Ridge by the textbook in float64: λ and the predictions for `context`."""
    vectors = dataset.vectors[train].astype(np.float64)
    x, y = vectors[:, :-1].reshape(len(train), -1), vectors[:, -1]
    centred = x - x.mean(0)
    penalty = 10**exponent * np.linalg.eigvalsh(centred.T @ centred).mean()
    gram = centred.T @ centred + penalty * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, centred.T @ (y - y.mean(0)))
    flat = context.reshape(len(context), -1)
    return penalty, (flat - x.mean(0)) @ weights + y.mean(0)


@pytest.mark.parametrize(
    "length", [22, 100], ids=["dual: 40 windows", "primal: 196 windows"]
)
def test_ridge_is_the_closed_form_and_lambda_the_best_on_validation(length):
    lengths = [length, length, 30]
    dataset, windows, _ = random_case(7, lengths, 2, 24)  # 48 features
    train, validation = windows[:-28], windows[-28:]
    ridge = fit_baselines(dataset, train, validation)["ridge"]
    exponent = ridge.numbers["exponent"]
    context, target = dataset.vectors[validation[:, :-1]], validation[:, -1]
    penalty, expected = dense_ridge(dataset, train, context, exponent)
    assert ridge.numbers["lambda"] == pytest.approx(penalty, rel=1e-4)
    np.testing.assert_allclose(outputs(ridge, context), expected, atol=2e-5)
    cosines = {
        e: cosine(
            dense_ridge(dataset, train, context, e)[1], dataset.vectors[target]
        ).mean()
        for e in (exponent - 0.5, exponent, exponent + 0.5)
    }
    assert max(cosines, key=cosines.get) == exponent


def test_primal_and_dual_ridge_agree():
    # Twice the same windows: twice the Gram matrix, twice λ, the same solution.
    dataset, windows, raw = random_case(8, [20, 20, 20], 2, 12)  # 24 features
    train, validation = windows[:18], windows[-18:]
    dual = fit_baselines(dataset, train, validation)["ridge"]
    primal = fit_baselines(dataset, np.tile(train, (2, 1)), validation)["ridge"]
    assert dual.numbers["exponent"] == primal.numbers["exponent"]
    context = dataset.vectors[windows[:, :-1]]
    np.testing.assert_allclose(
        outputs(dual, context), outputs(primal, context), atol=1e-5
    )
    assert outputs(dual, context).dtype == raw.dtype


def test_ridge_learns_a_linear_map_with_a_small_lambda():
    rng = np.random.default_rng(9)
    context = rng.standard_normal((150, 2, 6)) + 1
    targets = context.reshape(150, 12) @ rng.standard_normal((12, 6)) + 2
    vectors = np.concatenate([context, targets[:, None]], axis=1).reshape(-1, 6)
    train, validation = np.split(np.arange(450).reshape(150, 3), [100])
    ridge = fit_baselines(in_memory(vectors, [300, 150]), train, validation)["ridge"]
    assert -3 <= ridge.numbers["exponent"] < -1
    assert (cosine(outputs(ridge, context[100:]), targets[100:]) > 0.9999).all()


def test_five_weights_and_six_numbers_recover_what_made_the_data():
    rng = np.random.default_rng(9)
    weights, coefficient = np.array([0.3, -0.1, 0.05, 0.2, 0.4]), 0.25
    context = rng.standard_normal((200, 5, 8)) + 1
    without = np.einsum("c,wcd->wd", weights, context)
    train, validation = np.split(np.arange(1200).reshape(200, 6), [150])
    mean = without[:150].mean(0) / (1 - coefficient)  # of targets that contain it
    for targets, name, expected in [
        (without, "five_weights", weights),
        (without + coefficient * mean, "six_numbers", [*weights, coefficient]),
    ]:
        vectors = np.concatenate([context, targets[:, None]], axis=1).reshape(-1, 8)
        dataset = in_memory(vectors, [600, 600])
        fitted = fit_baselines(dataset, train, validation)[name]
        found = list(fitted.numbers.values())
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(
            outputs(fitted, context[150:]), targets[150:], atol=1e-5
        )
    assert [*fitted.numbers] == [
        *(f"weight_{i}" for i in range(1, 6)),
        "mean_coefficient",
    ]


@pytest.mark.parametrize(("context", "dim"), [(1, 3), (3, 7), (5, 16)])
def test_baselines_by_definition(context, dim):
    dataset, windows, _ = random_case(10, [40, 40, 20], context, dim)
    train = windows[: 2 * (40 - context)]
    baselines = fit_baselines(dataset, train, windows[len(train) :])
    assert [*baselines] == NAMES
    vectors = dataset.vectors[windows[:, :-1]]
    raw = {name: outputs(baseline, vectors) for name, baseline in baselines.items()}
    assert {(r.shape, r.dtype.name) for r in raw.values()} == {
        ((len(windows), dim), "float32")
    }
    mean = dataset.vectors[train[:, -1]].mean(0)
    np.testing.assert_array_equal(raw["last_vector"], vectors[:, -1])
    np.testing.assert_allclose(raw["context_average"], vectors.mean(1), atol=1e-6)
    np.testing.assert_allclose(raw["mean_vector"] - mean, 0, atol=1e-6)
    *six, coefficient = baselines["six_numbers"].numbers.values()
    np.testing.assert_allclose(
        raw["six_numbers"],
        np.einsum("c,wcd->wd", six, vectors) + coefficient * mean,
        atol=1e-5,
    )
    # Least squares: the more freedom, the smaller the error on the training windows.
    error = {n: training_error(b, dataset, train) for n, b in baselines.items()}
    assert error["six_numbers"] <= error["five_weights"] * (1 + 1e-6)
    assert error["five_weights"] <= min(error["context_average"], error["last_vector"])
    assert error["six_numbers"] <= error["mean_vector"]


def test_five_weights_is_numpys_least_squares():
    dataset, windows, _ = random_case(11, [40, 40, 20], 5, 16)
    vectors = dataset.vectors[windows].astype(np.float64)
    features = vectors[:, :-1].swapaxes(1, 2).reshape(-1, 5)
    expected = np.linalg.lstsq(features, vectors[:, -1].ravel())[0]
    found = fit_baselines(dataset, windows, windows)["five_weights"].numbers
    np.testing.assert_allclose(list(found.values()), expected, atol=1e-6)


def test_baselines_see_training_windows_only_and_lambda_validation():
    dataset, windows, _ = random_case(12, [40, 30, 30], 5, 8)
    train, validation, test = np.split(windows, [35, 60])
    before = fit_baselines(dataset, train, validation)
    assert not dataset.info["touched"] & set(test.ravel().tolist())
    dataset.vectors[validation.ravel()] *= -1
    after = fit_baselines(dataset, train, validation)
    context = dataset.vectors[test[:, :-1]]
    for name in NAMES:
        same = np.array_equal(
            outputs(before[name], context), outputs(after[name], context)
        )
        assert same == ("ridge" not in name)


def test_blocks_of_windows_change_nothing(monkeypatch):
    dataset, windows, _ = random_case(13, [60, 60, 30], 3, 6)  # primal
    whole = fit_baselines(dataset, windows, windows[-20:])
    scores = {n: baseline_cosine(b, dataset, windows) for n, b in whole.items()}
    monkeypatch.setattr(moments, "BLOCK", 7)
    for name, blocked in fit_baselines(dataset, windows, windows[-20:]).items():
        found = baseline_cosine(blocked, dataset, windows)
        np.testing.assert_allclose(found, scores[name], atol=1e-5)


def test_baselines_of_very_little_data_are_defined():
    dataset, windows, _ = random_case(14, [10, 10], 5, 4)
    alike = in_memory(np.tile(dataset.vectors[0], (20, 1)), [10, 10])
    for data, train in [(dataset, windows[:1]), (alike, windows), (alike, windows[:1])]:
        for baseline in fit_baselines(data, train, windows[-3:]).values():
            assert np.isfinite(baseline_cosine(baseline, data, windows)).all()
    ridge = fit_baselines(dataset, windows[:1], windows[-3:])["ridge"]
    target = dataset.vectors[windows[0, -1]]  # one window has no slope: its target
    np.testing.assert_allclose(
        outputs(ridge, dataset.vectors[None, :5]), [target], 1e-5
    )


def test_fit_baselines_refuses_what_does_not_fit():
    dataset, windows, _ = random_case(15, [10, 10], 5, 4)
    with pytest.raises(ValueError, match=r"windows have shape \(0, 6\)"):
        fit_baselines(dataset, windows, windows[:0])
    with pytest.raises(ValueError, match="reads 5 vectors, found 3"):
        fit_baselines(dataset, windows, windows[:, :4])


def test_baselines_on_real_vectors():
    dataset = open_dataset(verify=False)
    split = make_split(dataset, "controlled", 1000)
    baselines = fit_baselines(dataset, split.train, split.validation)
    cosines = {
        name: baseline_cosine(baseline, dataset, split.test).mean()
        for name, baseline in baselines.items()
    }
    best = max(cosines, key=cosines.get)
    assert best in ("five_weights", "six_numbers", "ridge_to_weights")
    assert 0.5 < cosines["context_average"] < cosines["five_weights"] < 0.65
    assert cosines["mean_vector"] < cosines["last_vector"] < cosines["context_average"]
    raw = outputs(baselines["context_average"], dataset.gather(split.test[:, :-1]))
    summary = summarise(score_windows(raw, dataset, split.test))
    assert summary["cosine"] == pytest.approx(cosines["context_average"], abs=1e-6)
    assert summary["contrastive"] > 0.9
    # An average is nearer to what it averages than to what follows.
    assert summary["r1_all_with_context"] < summary["r1_all"]


def test_ridge_to_the_weights_is_ridge_on_what_they_leave():
    dataset, windows, _ = random_case(16, [60, 60, 30], 2, 12)
    train, validation = windows[:-28], windows[-28:]
    fitted = fit_baselines(dataset, train, validation)["ridge_to_weights"]
    vectors = dataset.vectors[train].astype(np.float64)
    vectors -= vectors.mean(0)
    x, y = vectors[:, :-1].reshape(len(train), -1), vectors[:, -1]
    features = vectors[:, :-1].swapaxes(1, 2).reshape(-1, 2)
    start = np.linalg.lstsq(features, y.ravel())[0]
    rest = y - np.einsum("c,wcd->wd", start, vectors[:, :-1])
    gram = x.T @ x + fitted.numbers["lambda"] * np.eye(24)
    expected = np.linalg.solve(gram, x.T @ rest)
    np.testing.assert_allclose(fitted.weights, start, atol=1e-5)
    np.testing.assert_allclose(fitted.matrix, expected, atol=1e-4)


def test_ridge_to_zero_is_scikit_learns():
    sklearn = pytest.importorskip("sklearn.linear_model")
    dataset, windows, _ = random_case(17, [60, 60, 30], 3, 6)
    train, validation = windows[:-27], windows[-27:]
    fitted = fit_baselines(dataset, train, validation)["ridge"]
    context, target = dataset.vectors[train[:, :-1]], dataset.vectors[train[:, -1]]
    theirs = sklearn.Ridge(fitted.numbers["lambda"])
    theirs.fit(context.reshape(len(train), -1), target)
    expected = theirs.predict(context.reshape(len(train), -1))
    np.testing.assert_allclose(outputs(fitted, context), expected, atol=1e-4)


@pytest.mark.parametrize("length", [22, 100], ids=["dual", "primal"])
@pytest.mark.parametrize("start", [np.zeros(2), np.array([0.3, 0.5])], ids=str)
def test_generalised_cross_validation_by_the_hat_matrix(length, start):
    dataset, windows, _ = random_case(7, [length, length, 30], 2, 24)
    train, sums = windows[:-28], moments.Moments(dataset, windows[:-28])
    vectors = dataset.vectors[train].astype(np.float64)
    vectors -= vectors.mean(0)
    x, y = vectors[:, :-1].reshape(len(train), -1), vectors[:, -1]
    rest = y - np.einsum("c,wcd->wd", start, vectors[:, :-1])
    for exponent in (-1.0, 0.0, 1.0):
        solution = sums.ridge(start, exponent)
        gram = x.T @ x + solution.penalty * np.eye(x.shape[1])
        hat = x @ np.linalg.solve(gram, x.T)
        residual = np.square(rest - hat @ rest).sum()
        expected = len(x) * residual / (len(x) - np.trace(hat)) ** 2
        assert solution.gcv == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("context", [1, 3])
@pytest.mark.parametrize("kind", linear.KINDS)
def test_every_kind_is_fitted_saved_and_loaded(kind, context, tmp_path, runs_root):
    dataset, windows, _ = random_case(18, [40, 30, 30], context, 8)
    dataset.info["sha256"] = "cd" * 32
    train, validation, test = np.split(windows, [50, 70])
    model = build_model("linear", dim=8, context=context, kind=kind)
    model.fit(dataset, Split(train, validation, test))
    save_weights(model, tmp_path / "linear.safetensors")
    loaded = load_weights(tmp_path / "linear.safetensors")
    vectors = dataset.vectors[test[:, :-1]]
    np.testing.assert_array_equal(outputs(loaded, vectors), outputs(model, vectors))
    assert loaded.options["kind"] == kind


def test_baselines_are_fitted_once_and_read_again(runs_root, monkeypatch):
    dataset, windows, _ = random_case(19, [40, 30, 30], 2, 8)
    dataset.info["sha256"] = "ab" * 32
    split = Split(windows[:40], windows[40:60], windows[40:])
    first = evaluation.score_baselines(dataset, split)
    monkeypatch.setattr(evaluation, "fit_baselines", None)
    again = evaluation.score_baselines(dataset, split)
    pd.testing.assert_frame_equal(again[0], first[0])
    assert again[1] == first[1]
    assert set(first[1]["baselines"]) == set(NAMES)


@pytest.mark.parametrize("length", [20, 60], ids=["dual", "primal"])
def test_low_rank_is_the_best_of_its_rank_and_the_whole_at_full_rank(length):
    dataset, windows, _ = random_case(19, [length, length, 30], 2, 24)
    train, validation = windows[:-28], windows[-28:]
    sums = moments.Moments(dataset, train)
    context = dataset.vectors[train[:, :-1]]

    def fitted(**options):
        model = build_model("linear", dim=24, context=2, **options).eval()
        model.fit_moments(sums, validation)
        return outputs(model, context)

    whole = fitted(kind="ridge_to_weights")
    full = fitted(kind="low_rank", rank=24)
    np.testing.assert_allclose(full, whole, atol=1e-4)
    plain = build_model("linear", dim=24, context=2)
    plain.fit_moments(sums, validation)
    added = (context - sums.means[:-1]).reshape(len(train), -1) @ (plain.matrix.numpy())
    singular = np.linalg.svd(added, compute_uv=False)
    for rank in (3, 10):
        lost = np.square(fitted(kind="low_rank", rank=rank) - whole).sum()
        assert lost == pytest.approx(np.square(singular[rank:]).sum(), rel=1e-3)


def test_ranking_weights_of_two_chunks_are_a_logistic_regression():
    """With one rival a window, conditional logit is logit of the difference."""
    dataset, windows, _ = random_case(31, [5] * 60, 3, 6)  # two windows a document
    found = moments.Moments(dataset, windows).ranking_weights()
    context = dataset.gather(windows[::2, :-1])
    apart = dataset.gather(windows[::2, -1]) - dataset.gather(windows[1::2, -1])
    x = np.einsum("wcd,wd->wc", context, apart).astype(np.float64)
    sklearn = pytest.importorskip("sklearn.linear_model")
    strength = 1 / (4 * len(x) * moments.SHRINK)  # each window counts twice there
    plain = sklearn.LogisticRegression(C=strength, fit_intercept=False, tol=1e-10)
    plain.fit(np.concatenate([x, -x]), np.repeat([1, 0], len(x)))
    np.testing.assert_allclose(found, plain.coef_[0], rtol=1e-3, atol=1e-3)


def test_ranking_weights_see_only_the_chunks_that_follow(monkeypatch):
    dataset, windows, _ = random_case(32, [14, 9, 5, 1], 3, 6)
    whole = moments.Moments(dataset, windows)
    vectors = dataset.gather(np.arange(dataset.n))
    documents = dataset.document_of(windows[:, -1])
    monkeypatch.setattr("lvmlib.vectors.FOLLOWING", 4)
    expected = []
    for window, document in zip(windows, documents, strict=True):
        after = windows[(documents == document) & (windows[:, -1] >= window[-1]), -1]
        if len(after) > 1:
            expected.append(vectors[window[:-1]] @ vectors[np.sort(after)[:5]].T)
    for block in (2, 5, 100):
        monkeypatch.setattr(moments, "BLOCK", block)
        found = [
            row[mask].T
            for products, there in whole._following()
            for row, mask in zip(products, there, strict=True)
        ]
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_ranking_weights_need_something_to_tell_apart():
    dataset, windows, _ = random_case(33, [4, 4], 3, 6)
    with pytest.raises(ValueError, match="nothing to tell"):
        moments.Moments(dataset, windows).ranking_weights()


def test_a_baseline_as_a_model_is_not_fitted_again(runs_root, monkeypatch):
    dataset, windows, _ = random_case(34, [40, 30, 30], 2, 8)
    dataset.info["sha256"] = "ef" * 32
    split = Split(windows[:40], windows[40:60], windows[40:])
    fitted = evaluation.fitted_baselines(dataset, split)
    monkeypatch.setattr(evaluation, "fit_baselines", None)
    for name, kind in {"ridge": "ridge", "six_numbers": "weights_and_mean"}.items():
        model = build_model("linear", dim=8, context=2, kind=kind)
        model.fit(dataset, split)
        assert model.numbers == fitted[name].numbers != {}
        for key, value in fitted[name].state_dict().items():
            assert torch.equal(model.state_dict()[key], value)


def test_ranking_weights_are_finite_where_every_target_can_be_told():
    """Documents that go round a circle: the next chunk is always the nearest."""
    angles = np.concatenate([np.arange(12) * 0.25 + n for n in range(20)])
    vectors = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    windows = windows_of([12] * 20, 1)
    found = moments.Moments(in_memory(vectors, [12] * 20), windows).ranking_weights()
    assert 10 < found[0] < 1e6
