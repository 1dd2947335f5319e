"""Tables and sentences of the notebooks, all computed from a run's numbers."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown, display
from torch import nn

from lvmlib.comparison import BASELINES
from lvmlib.models import count_parameters
from lvmlib.recipe import Settings
from lvmlib.runs import Run, load_run
from lvmlib.statistics import Interval, clustered_interval, format_interval
from lvmlib.vectors import Dataset, Split

RANKINGS = {
    "document": "its document's vectors, context left out",
    "all": "all test vectors, context left out",
    "document_with_context": "its document's vectors, context left in",
    "all_with_context": "all test vectors, context left in",
}
STATUS = {
    "collapsed": "Training fell from its own best back to the level of a constant mean "
    "vector: a failure of optimisation, not overfitting. The best epoch is scored.",
    "unlearned": "The training cosine never left the level of a constant mean vector: "
    "the score says nothing about the architecture yet.",
    "diverged": "The loss was not finite; the best weights before that are scored.",
}


def table(frame: pd.DataFrame, caption: str) -> None:
    """Display a table with a caption and without the index; nothing without rows."""
    if frame.empty:
        return
    body = frame.to_html(index=False, border=0, na_rep="—", escape=False)
    opening, rest = body.split(">", 1)
    display(HTML(f"{opening}><caption>{escape(caption)}</caption>{rest}"))


def say(*sentences: str) -> None:
    """Display computed sentences as a paragraph."""
    display(Markdown(" ".join(sentences)))


def parameter_table(settings: Settings) -> None:
    """Show every parameter of the run."""
    items = settings.parameters()
    items["dataset"] = items["dataset"] or "(bundled sample)"
    items["run_dir"] = str(settings.folder)
    frame = pd.DataFrame(
        {"parameter": list(items), "value": [escape(str(v)) for v in items.values()]}
    )
    table(frame, "Parameters of this run")


def data_table(dataset: Dataset, split: Split) -> None:
    """Show how many documents and windows each part has."""
    rows = []
    for part, windows in vars(split).items():
        documents = dataset.document_of(windows)
        rows.append(
            {
                "part": part,
                "windows": f"{len(windows):,}",
                "documents": f"{len(np.unique(documents)):,}",
                "vectors": f"{len(np.unique(windows)):,}",
                "windows across documents": int(
                    (documents[:, 0] != documents[:, -1]).sum()
                ),
            }
        )
    table(pd.DataFrame(rows), f"Dataset {dataset.info['name']}, dim {dataset.dim}")
    say(leakage(split))


def leakage(split: Split) -> str:
    """Say how many held-out vectors are also in training windows."""
    seen = np.unique(split.train)
    counts = {
        part: np.isin(np.unique(getattr(split, part)), seen)
        for part in ("validation", "test")
    }
    said = [
        f"{found.sum():,} of {len(found):,} {part} vectors ({found.mean():.0%})"
        for part, found in counts.items()
    ]
    return f"Also seen in training: {said[0]} and {said[1]}."


def model_table(model: nn.Module) -> None:
    """Show the model's parts and how many parameters each has."""
    rows = [
        {
            "part": name,
            "kind": type(part).__name__,
            "parameters": f"{sum(p.numel() for p in part.parameters()):,}",
        }
        for name, part in model.named_children()
    ]
    rows += [
        {"part": name, "kind": "Parameter", "parameters": f"{parameter.numel():,}"}
        for name, parameter in model.named_parameters(recurse=False)
    ]
    counts = count_parameters(model)
    table(pd.DataFrame(rows), "Parts of the model")
    extra = counts["with_buffers"] - counts["trainable"]
    buffers = f", and {extra:,} fixed numbers in buffers" if extra else ""
    say(f"{counts['trainable']:,} trainable parameters{buffers}.")


def score_table(run: Run) -> None:
    """Show the network beside the baselines, with intervals over documents."""
    documents, network = run.scores["document"], run.scores["cosine"]
    rows = [_score_row("<strong>network</strong>", network, documents, None)]
    for name, label in BASELINES.items():
        rows.append(_score_row(label, run.scores[f"cosine_{name}"], documents, network))
    frame = pd.DataFrame(rows).sort_values("order", ascending=False)
    count = f"{run.info['windows']['test']:,} windows, {documents.nunique()} documents"
    table(frame.drop(columns="order"), f"Test cosine on {count}")


def _score_row(
    label: str, scores: pd.Series, documents: pd.Series, network: pd.Series | None
) -> dict[str, Any]:
    own = clustered_interval(scores, documents)
    row = {
        "score of": label,
        "order": own.estimate,
        "cosine, 95% interval": format_interval(own, signed=False),
        "network minus it": "",
    }
    if network is not None:
        difference = clustered_interval(network - scores, documents)
        row["network minus it"] = format_interval(difference)
    return row


def _contenders(run: Run) -> dict[str, dict[str, float]]:
    """Return the test metrics of the network and of every baseline."""
    baselines = {v: run.info["baselines"][k] for k, v in BASELINES.items()}
    return {"<strong>network</strong>": run.info["test"]} | baselines


def retrieval_table(run: Run) -> None:
    """Show how often the true next vector is among the nearest candidates."""
    for ranking, label in RANKINGS.items():
        rows = [
            {"prediction by": name}
            | {f"R@{k}": f"{metrics[f'r{k}_{ranking}']:.3f}" for k in (1, 5, 10)}
            | {"MRR": f"{metrics[f'mrr_{ranking}']:.3f}"}
            for name, metrics in _contenders(run).items()
        ]
        table(pd.DataFrame(rows), f"The true next vector among {label}")


def other_table(run: Run) -> None:
    """Show contrastive accuracy and squared error beside the baselines."""
    rows = [
        {
            "prediction by": name,
            "contrastive accuracy": f"{metrics['contrastive']:.3f}",
            "squared error per dimension": f"{metrics['mse']:.3g}",
        }
        for name, metrics in _contenders(run).items()
    ]
    table(pd.DataFrame(rows), "Telling documents apart, and the training loss")


def finding(run: Run) -> str:
    """Say in words what this run found."""
    info = run.info
    best = info["best_baseline"]
    difference = clustered_interval(
        run.scores["cosine"] - run.scores[f"cosine_{best}"], run.scores["document"]
    )
    sentences = [
        f"Trained on {info['parameters']['size']:,} vectors "
        f"({info['windows']['train']:,} windows), the network reaches a test cosine of "
        f"**{info['test']['cosine']:.4f}**. The best baseline, "
        f"{BASELINES[best]}, has {info['baselines'][best]['cosine']:.4f}: the network "
        f"{_relation(difference)} ({format_interval(difference)}, 95% interval over "
        f"documents), a skill of {signed(info['skill'])}.",
        f"Best epoch: {info['best_epoch']} of {info['epochs']}."
        + (
            " The last epoch was the best one: more training might still help."
            if info["best_epoch"] == info["epochs"]
            else ""
        ),
        f"Status: **{info['status']}**. {STATUS.get(info['status'], '')}".strip(),
        "One run has one seed: none of this tells how another seed would do.",
    ]
    return " ".join(filter(None, sentences))


def signed(number: float, digits: int = 3) -> str:
    """Return a number with its sign, the minus a true one; what rounds to 0 has +."""
    return f"{number:+z.{digits}f}".replace("-", "−")


def counted(number: int, noun: str) -> str:
    """Text such as "1 seed" or "3 seeds"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def span(numbers: Iterable[float], digits: int = 3) -> str:
    """Return the least and the largest number, or the one that both are."""
    numbers = list(numbers)
    ends = signed(min(numbers), digits), signed(max(numbers), digits)
    return " to ".join(dict.fromkeys(ends))


def _relation(difference: Interval) -> str:
    if difference.low > 0:
        return "is better"
    return "is worse" if difference.high < 0 else "cannot be told from it"


def command(settings: Settings) -> str:
    """Return the papermill command that repeats a run, in a folder of its own."""
    notebook = f"notebooks/{settings.architecture}.ipynb"
    words = ["papermill", "-k", "python3", notebook, "again.ipynb"]
    return shlex.join(words + replace(settings, run_dir="").arguments())


def provenance(run: Run, settings: Settings) -> None:
    """Show where the numbers come from and how to get them again."""
    info = run.info
    versions = ", ".join(f"{k} {v}" for k, v in info["versions"].items())
    say(
        f"Commit `{info['commit']}` · dataset {info['dataset']['name']} "
        f"`{info['dataset']['sha256'][:12]}` · recipe `{info['recipe_hash']}` · "
        f"{info['device']} ({info['processor']}, {info['threads']} threads), "
        f"{info['precision']} · {run.wall_seconds:.0f} s, "
        f"{info['windows_per_second']:.0f} training windows/s, peak memory "
        f"{info['peak_memory_mb']:.0f} MB · {versions} · finished {info['finished']}."
    )
    say(f"To repeat this run:\n\n```\n{command(settings)}\n```")


def study_provenance(runs: pd.DataFrame) -> None:
    """Show where a study's numbers come from."""
    info = load_run(runs["folder"].iloc[0]).info
    versions = ", ".join(f"{k} {v}" for k, v in info["versions"].items())

    def each(column: str) -> str:
        return ", ".join(sorted(runs[column].astype(str).unique()))

    say(
        f"{len(runs)} runs · commit {each('commit')} · dataset {each('dataset')} "
        f"`{info['dataset']['sha256'][:12]}` · {each('device')} ({each('processor')}; "
        f"{each('threads')} threads a run), {each('precision')} · "
        f"{runs['wall_seconds'].sum() / 60:.0f} minutes in all · {versions}."
    )
