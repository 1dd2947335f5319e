"""What training minimises, against hand computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import drifting_vectors

from lvmlib.losses import (
    NEIGHBOURS,
    TEMPERATURE,
    side_by_side,
    total_loss,
    total_surprise,
)
from lvmlib.models import build_model
from lvmlib.recipe import Recipe
from lvmlib.training import train
from lvmlib.vectors import make_split, open_dataset

SMALL = {"epochs": 2, "batch_size": 16, "precision": "32-true", "device": "cpu"}


def test_cosine_loss_sums_one_minus_cosine():
    raw, target = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0]] * 2)
    assert total_loss("cosine", raw, target, None).item() == pytest.approx(1.0)


def test_ranking_loss_is_the_cross_entropy_of_the_truth():
    raw = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    rows = torch.tensor([[1, 2], [5, 6]])  # apart from each other
    sums = [[1.0, 0.0], [0.6, 0.8]]
    expected = sum(
        math.log(sum(math.exp(c / TEMPERATURE) for c in row)) - row[n] / TEMPERATURE
        for n, row in enumerate(sums)
    )
    assert total_loss("ranking", raw, target, rows).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_ranking_leaves_a_windows_own_context_out():
    raw, target = torch.randn(2, 4), torch.randn(2, 4)
    # The first window's target, row 5, is the second one's context.
    rows = torch.tensor([[4, 5], [5, 6]])
    first = F.normalize(raw[:1]) @ F.normalize(target).T / TEMPERATURE
    expected = F.cross_entropy(first, torch.tensor([0]))  # the second one's is certain
    found = total_loss("ranking", raw, target, rows)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_surprise_is_that_of_the_target_among_what_follows_it():
    raw = torch.tensor([[0.02, 0.0], [0.03, 0.04]])
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    later = torch.tensor([[[0.0, 1.0], [0.6, 0.8], [9.0, 9.0]], [[9.0, 9.0]] * 3])
    there = torch.tensor([[True, True, False], [False] * 3])  # nothing after the second
    chances = [math.exp(x * 0.02 / TEMPERATURE) for x in (1.0, 0.0, 0.6)]
    expected = math.log(sum(chances) / chances[0])
    found = total_surprise(raw, target, later, there)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_surprise_may_be_that_among_the_batchs_other_targets_too():
    raw, target = torch.randn(3, 4), torch.randn(3, 4)
    later, there = (
        torch.randn(3, 2, 4),
        torch.tensor([[True, True]] * 2 + [[False] * 2]),
    )
    # The second window has read the first one's target; the third one's is no one's.
    rows = torch.tensor([[1, 2, 3], [2, 3, 4], [7, 8, 9]])
    rivals = [[*later[0], target[1], target[2]], [*later[1], target[2]], target[:2]]
    expected = 0.0
    for n, others in enumerate(rivals):
        candidates = torch.stack([target[n], *others])
        logits = candidates @ raw[n] / TEMPERATURE
        expected += (logits.logsumexp(0) - logits[0]).item()
    found = total_surprise(raw, target, later, there, rows)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_windows_of_one_document_lie_side_by_side_and_each_comes_once():
    rng = np.random.default_rng(0)
    documents = np.repeat(np.arange(30), rng.integers(1, 40, 30))
    order = rng.permutation(len(documents))
    found = side_by_side(order, documents)
    assert sorted(found) == list(range(len(documents)))
    runs = np.split(found, np.flatnonzero(np.diff(documents[found])) + 1)
    sizes = np.bincount(documents)
    for group in runs:
        assert len(group) >= min(NEIGHBOURS, sizes[documents[group[0]]] % NEIGHBOURS)
    pairs = documents[found][1:] == documents[found][:-1]
    assert pairs.mean() > 0.7
    assert (documents[found] != np.sort(documents[found])).any()
    assert not np.array_equal(found, side_by_side(rng.permutation(order), documents))


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "cosine"},
        {"loss": "ranking"},
        {"every_position": True},
        {"averaging": 0.9},
        {"scale": True, "head_start": "trained", "averaging": 0.5, "loss": "ranking"},
        {"scale": True, "head_start": "trained", "loss": "following"},
        {"scale": True, "head_start": "frozen", "loss": "following_and_batch"},
    ],
    ids=str,
)
def test_resumed_training_equals_uninterrupted(
    options, write_dataset, tmp_path, runs_root
):
    from lvmlib.start import Started

    dataset = open_dataset(write_dataset(tmp_path / "d", drifting_vectors()))
    split, recipe = make_split(dataset, "controlled", 200), Recipe(**SMALL, **options)

    def model():
        torch.manual_seed(0)
        built = build_model("lstm", dim=16, hidden=8)
        return Started(built, recipe.scale, recipe.head_start, recipe.start)

    history = train(model(), dataset, split, recipe, 0, tmp_path / "whole")

    def stop(row):
        raise KeyboardInterrupt

    # A checkpoint after every update; stopped after the first epoch, then gone on.
    given = (dataset, split, recipe, 0, tmp_path / "parts", "", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(model(), *given, after_epoch=stop)
    again = train(model(), *given)
    for column in ("train_loss", recipe.judge):
        assert list(history[column]) == list(again[column])


def test_averaging_scores_the_weights_moving_average(write_dataset, tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "d", drifting_vectors()))
    split = make_split(dataset, "controlled", 200)
    found = {}
    for averaging in (0.0, 0.999):
        torch.manual_seed(0)
        model = build_model("gru", dim=16, hidden=8)
        first = model.output_proj.weight.detach().clone()
        recipe = Recipe(**SMALL, averaging=averaging, learning_rate=0.01)
        train(model, dataset, split, recipe, 0, tmp_path / str(averaging))
        found[averaging] = (model.output_proj.weight - first).norm()
    assert found[0.999] < 0.2 * found[0.0]  # it has hardly left where it began
