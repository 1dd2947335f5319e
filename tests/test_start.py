"""Scale and head start: where training begins, and what a file of it holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import drifting_vectors
from safetensors import safe_open
from scipy.special import logsumexp

from lvmlib import count_parameters, evaluation, load_weights, predict, save_weights
from lvmlib.evaluation import fitted_baselines, score_baselines
from lvmlib.inference import predict_windows
from lvmlib.models import ARCHITECTURES, build_model
from lvmlib.moments import Moments
from lvmlib.names import ParameterError
from lvmlib.recipe import Recipe, make_settings
from lvmlib.runs import new_model, run
from lvmlib.start import Started, inside
from lvmlib.training import train
from lvmlib.vectors import make_split, open_dataset

NETWORKS = [
    name
    for name in ARCHITECTURES
    if any(p.requires_grad for p in build_model(name, dim=8).parameters())
]
RECIPE = {"epochs": 1, "batch_size": 16, "precision": "32-true", "device": "cpu"}


@pytest.fixture
def data(dataset_folder, runs_root):
    dataset = open_dataset(dataset_folder)
    return dataset, make_split(dataset, "controlled", 200)


def ridge_to_weights(dataset, split):
    return fitted_baselines(dataset, split)["ridge_to_weights"].state_dict()


def network(name, dim=16, context=5):
    torch.manual_seed(0)
    return build_model(name, dim=dim, context=context)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_with_a_head_start_training_begins_at_the_linear_model(name, scale, data):
    dataset, split = data
    model = Started(network(name), scale, "frozen")
    model.fit(dataset, split)
    linear = build_model("linear", dim=16)
    linear.load_state_dict(ridge_to_weights(dataset, split))
    found = predict_windows(model, dataset, split.test)
    np.testing.assert_allclose(
        found, predict_windows(linear, dataset, split.test), atol=2e-6
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_scale_multiplies_what_the_network_reads_and_divides_what_it_says(name):
    model, plain = Started(network(name), True, "none").eval(), network(name).eval()
    context = torch.randn(3, 5, 16)
    assert torch.equal(model(context), plain(context * 4) / 4)


@pytest.mark.parametrize("name", NETWORKS)
def test_file_and_counts_of_the_network_stay_as_they_are(name, tmp_path):
    plain, path = network(name), tmp_path / "model.safetensors"
    scaled = Started(network(name), True, "none")
    started = Started(network(name), True, "trained")
    save_weights(scaled, path)
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(plain.state_dict())
    save_weights(started, path)
    with safe_open(path, framework="pt") as file:
        own = {key for key in file.keys() if not key.startswith("start.")}  # noqa: SIM118
    assert own == set(plain.state_dict())
    assert count_parameters(scaled) == count_parameters(plain)
    linear = build_model("linear", dim=16)
    assert count_parameters(started) == count_parameters(plain) | {"start": linear.kept}


@pytest.mark.parametrize("head_start", ["none", "frozen", "trained"])
def test_what_is_loaded_predicts_as_what_was_saved(head_start, data, tmp_path):
    dataset, split = data
    model = Started(network("gru"), True, head_start)
    model.fit(dataset, split)
    torch.nn.init.normal_(model.network.output_proj.weight)
    save_weights(model, tmp_path / "model.safetensors")
    loaded = load_weights(tmp_path / "model.safetensors")
    context = dataset.gather(split.test[:7, :-1])
    np.testing.assert_array_equal(predict(loaded, context), predict(model, context))
    assert (loaded.scale, loaded.head_start) == (True, head_start)


@pytest.mark.parametrize("name", ["amn", "lstm"])
def test_what_follows_is_learned_from_the_weights_that_tell_it_best(
    name, data, tmp_path, runs_root
):
    dataset, split = data
    recipe = Recipe(
        **RECIPE | {"learning_rate": 1e-9},
        scale=True,
        head_start="frozen",
        loss="following",
    )
    model = Started(network(name), True, "frozen", recipe.start)
    history = train(model, dataset, split, recipe, 0, tmp_path)
    told = Moments(dataset, split.train)
    best, total = told.ranking_weights(), 0.0
    for products, there in told._following():
        logits = np.where(there, products @ best, -np.inf)
        total += (logsumexp(logits, axis=1) - logits[:, 0]).sum()
    assert history["train_loss"][0] == pytest.approx(total / len(split.train), rel=1e-4)
    # What is kept is of the same shape when it is read again, and says the same.
    loaded = load_weights(tmp_path / "model.safetensors")
    context = dataset.gather(split.test[:7, :-1])
    np.testing.assert_array_equal(predict(loaded, context), predict(model, context))


def test_likelihood_judges_the_epochs_of_the_loss_that_is_one(data, tmp_path):
    dataset, split = data
    recipe = Recipe(
        **RECIPE | {"epochs": 6, "learning_rate": 0.02}, scale=True, loss="following"
    )
    model = Started(network("lstm"), True, "none")
    history = train(model, dataset, split, recipe, 0, tmp_path)
    best = history["validation_likelihood"].idxmax()
    assert best not in (history.index[-1], history["validation_cosine"].idxmax())
    cosine = evaluation.mean_cosine(model, dataset, split.validation)
    assert cosine == pytest.approx(history["validation_cosine"][best], abs=1e-6)


def test_training_leaves_a_frozen_start_and_moves_a_trained_one(data, tmp_path):
    dataset, split = data
    before = ridge_to_weights(dataset, split)["matrix"]
    for head_start, moved in (("frozen", False), ("trained", True)):
        model = Started(network("gru"), True, head_start)
        recipe = Recipe(**RECIPE, scale=True, head_start=head_start)
        train(model, dataset, split, recipe, 0, tmp_path / head_start)
        assert torch.equal(model.start.matrix, before) is not moved
        assert model.network.output_proj.weight.abs().sum() > 0


@pytest.mark.parametrize("first", ["start", "baselines"])
def test_the_start_is_the_baseline_and_fitted_once(data, runs_root, monkeypatch, first):
    dataset, split = data

    def score():
        return score_baselines(dataset, split)[1]

    if first == "start":
        ridge_to_weights(dataset, split)
    else:
        score()
    monkeypatch.setattr(evaluation, "fit_baselines", None)
    state, numbers = ridge_to_weights(dataset, split), score()["baselines"]
    numbers = numbers["ridge_to_weights"]["numbers"]
    found = [numbers[f"weight_{n}"] for n in range(1, 6)]
    np.testing.assert_allclose(state["weights"], found, rtol=1e-6)


def test_a_run_with_a_head_start_is_kept_and_read_back(data, dataset_folder):
    dataset, split = data
    given = RECIPE | {"dataset": str(dataset_folder), "size": 200}
    settings = make_settings("amn", given | {"scale": True, "head_start": "frozen"})
    done = run(settings, new_model(settings, dataset.dim), dataset, split)
    assert done.info["parameters"]["head_start"] == "frozen"
    loaded = load_weights(done.folder / "model.safetensors")
    raw = predict_windows(loaded, dataset, split.test)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    expected = (unit * dataset.gather(split.test[:, -1])).sum(1)
    np.testing.assert_allclose(done.scores["cosine"], expected, atol=1e-5)


def test_inside_gives_the_network_and_what_it_reads():
    plain = network("gru")
    assert inside(plain) == (plain, 1.0)
    assert inside(Started(plain, True, "none")) == (plain, 4.0)
    assert inside(Started(plain, False, "frozen")) == (plain, 1.0)


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="fitted, not trained"):
        new_model(make_settings("linear", {"head_start": "frozen"}), 8)
    with pytest.raises(ParameterError, match="whole context only"):
        make_settings("amn", {"every_position": True})
    both = {"every_position": True, "head_start": "frozen"}
    with pytest.raises(ParameterError, match="no head start"):
        make_settings("lstm", both)
    with pytest.raises(ParameterError, match="last position"):
        make_settings("lstm", {"every_position": True, "loss": "following"})
    with pytest.raises(ParameterError, match="every_position has no running_mean"):
        make_settings("lstm", {"every_position": True, "running_mean": True})


@pytest.mark.parametrize("name", ["lstm", "gru", "transformer"])
def test_every_position_sees_what_came_before_it_and_nothing_else(name):
    model = network(name).eval()
    context = torch.randn(3, 5, 16)
    every = model.at_every_position(context)  # (3, 5, 16)
    torch.testing.assert_close(every[:, -1], model(context))
    torch.testing.assert_close(every[:, 1], model(context[:, :2]))


def test_a_context_of_another_length_trains_and_is_scored(data, dataset_folder):
    dataset, _ = data
    given = RECIPE | {"dataset": str(dataset_folder), "size": 200, "context": 3}
    settings = make_settings("gru", given | {"scale": True, "head_start": "frozen"})
    split = make_split(dataset, "controlled", 200, context=3)
    done = run(settings, new_model(settings, dataset.dim), dataset, split)
    assert len(done.scores) == len(split.test)
    assert split.test.shape[1] == 4


def test_drifting_vectors_reward_a_head_start(write_dataset, tmp_path, runs_root):
    folder = write_dataset(tmp_path / "d", drifting_vectors())
    dataset = open_dataset(folder)
    split = make_split(dataset, "controlled", 200)
    best = {}
    for head_start in ("none", "frozen"):
        model = Started(network("lstm"), True, head_start)
        recipe = Recipe(**RECIPE, scale=True, head_start=head_start)
        history = train(model, dataset, split, recipe, 0, tmp_path / head_start)
        best[head_start] = history["validation_cosine"].max()
    assert best["frozen"] > best["none"] + 0.05
