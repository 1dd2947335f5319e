"""The original report's claims, each put to a check that the runs decide.

claims.json has every claim with the name of its check; a check is a function of the
evidence that returns one of three verdicts and the numbers that say so. No verdict is
written down anywhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

import pandas as pd

from lvmlib.comparison import BASELINES, compare_sizes, over_baseline
from lvmlib.pages import explanations, findings
from lvmlib.pages.report import signed
from lvmlib.pages.summary import (
    REPORTED_SIZES,
    best_baseline,
    dominating,
    headline_sizes,
    main_runs,
    recommendation,
)
from lvmlib.runs import load_run
from lvmlib.scaling import ResampledCurve
from lvmlib.statistics import MARGIN, Interval, format_interval, verdict

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be decided"
DECIDED = ("improves", "equivalent", "regresses")
Result = tuple[str, str]  # verdict, the numbers that say so


@dataclass(frozen=True)
class Evidence:
    """What the checks look at.

    `curves` are those of `findings.fit_curves`, `baselines` of `baseline_costs`.
    """

    everything: pd.DataFrame
    reported: pd.DataFrame
    curves: dict[str, dict[str, ResampledCurve]]
    baselines: pd.DataFrame

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The main runs."""
        return main_runs(self.everything)

    @cached_property
    def sizes(self) -> tuple[int, int]:
        """The two headline sizes."""
        return headline_sizes(self.runs)

    @cached_property
    def changes(self) -> pd.DataFrame:
        """The contrast of the main arm, a row an architecture."""
        return compare_sizes(self.runs, *self.sizes).set_index("entry")

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Which of every two networks is better at the smaller size."""
        return findings.superiority(self.runs, self.sizes[0])

    def verdicts(self, architectures: list[str]) -> list[str]:
        """Return the contrast's verdicts; "not measured" where runs are missing."""
        return [self.changes["verdict"].get(a, "not measured") for a in architectures]

    def said(self, architectures: list[str]) -> str:
        """Return change and verdict of each architecture in words.

        One that was trained on both sizes in another version only is said as that.
        """
        said = []
        for name, word in zip(architectures, self.verdicts(architectures), strict=True):
            change = _text(self.changes["interval"].get(name))
            texts = [" ".join(filter(None, [name, change, word]))]
            if name not in self.changes.index:
                own = self.everything[self.everything["architecture"] == name]
                texts += [
                    f"{row.entry} {_text(row.interval)} {row.verdict}"
                    for row in compare_sizes(own, *self.sizes).itertuples()
                ]
            said.append(", ".join(texts))
        return "; ".join(said)


def table(
    everything: pd.DataFrame,
    reported: pd.DataFrame,
    curves: dict[str, dict[str, ResampledCurve]],
    baselines: pd.DataFrame,
) -> tuple[pd.DataFrame, str]:
    """Put every claim to its check; the claims are about the reported sizes."""
    evidence = Evidence(everything, reported, curves, baselines)
    if evidence.sizes != tuple(REPORTED_SIZES.values()):
        small, large = REPORTED_SIZES.values()
        lack = f"the claims are about {small:,} and {large:,} vectors"
        return pd.DataFrame(), findings.not_measured(lack)
    rows = []
    for entry in json.loads((files("lvmlib.pages") / "claims.json").read_text()):
        claim, where, check = (entry.pop(key) for key in ("claim", "where", "check"))
        word, number = CHECKS[check](evidence, **entry)
        rows.append(
            {"claim": claim, "where": where, "verdict": word, "because": number}
        )
    counts = pd.Series([row["verdict"] for row in rows]).value_counts()
    said = ", ".join(f"{word}: {counts.get(word, 0)}" for word in (HOLDS, FAILS, OPEN))
    return pd.DataFrame(rows), f"The verdicts on its {len(rows)} claims: {said}."


def decide(holds: bool, fails: bool) -> str:
    """Return the verdict; at most one of the two is true."""
    return HOLDS if holds else FAILS if fails else OPEN


def _text(interval: Interval | None) -> str:
    return "" if interval is None else format_interval(interval, digits=4)


# --- what the registered contrast decides -------------------------------------------


def no_gain(evidence: Evidence, architectures: list[str]) -> Result:
    """No architecture improves: each is equivalent or regresses."""
    words = evidence.verdicts(architectures)
    holds = all(word in ("equivalent", "regresses") for word in words)
    return decide(holds, "improves" in words), evidence.said(architectures)


def change(evidence: Evidence, architecture: str, verdict: str) -> Result:
    """One architecture has this verdict."""
    (word,) = evidence.verdicts([architecture])
    fails = word in DECIDED and word != verdict
    return decide(word == verdict, fails), evidence.said([architecture])


def prefer_small(evidence: Evidence, architectures: list[str]) -> Result:
    """All regress: the smaller set gives the better model."""
    words = evidence.verdicts(architectures)
    fails = any(word in ("improves", "equivalent") for word in words)
    holds = all(word == "regresses" for word in words)
    return decide(holds, fails), evidence.said(architectures)


def only_improver(
    evidence: Evidence, architecture: str, architectures: list[str]
) -> Result:
    """Improves, and no other architecture does."""
    (own,) = evidence.verdicts([architecture])
    others = evidence.verdicts([a for a in architectures if a != architecture])
    quiet = all(word in ("equivalent", "regresses") for word in others)
    fails = "improves" in others or own in ("equivalent", "regresses")
    return decide(own == "improves" and quiet, fails), evidence.said(architectures)


def average_falls(evidence: Evidence, architectures: list[str]) -> Result:
    """Fall of the mean over architectures: its change is below zero."""
    share = 1 / len(architectures)
    mean = explanations.combined_change(
        evidence.runs, dict.fromkeys(architectures, share)
    )
    if mean is None:
        return OPEN, f"not all measured: {evidence.said(architectures)}"
    word = verdict(mean)
    fails = word in ("improves", "equivalent")
    return decide(word == "regresses", fails), f"mean change {_text(mean)}: {word}"


def most_scalable(
    evidence: Evidence, architecture: str, architectures: list[str]
) -> Result:
    """Gain more from the data than every other architecture."""
    gaps = {
        other: explanations.combined_change(evidence.runs, {architecture: 1, other: -1})
        for other in architectures
        if other != architecture
    }
    known = [gap for gap in gaps.values() if gap is not None and gap.seeds > 1]
    holds = len(known) == len(gaps) and all(gap.low > 0 for gap in known)
    texts = (f"over {a} {_text(gap) or 'not measured'}" for a, gap in gaps.items())
    said = f"{architecture}'s change: {'; '.join(texts)}"
    return decide(holds, any(gap.high < 0 for gap in known)), said


def only_with_diversity(evidence: Evidence) -> Result:
    """More of one source helps no architecture; that another would is not tested."""
    sources = evidence.everything["dataset"].nunique()
    up = list(evidence.changes.index[evidence.changes["verdict"] == "improves"])
    said = f"from {sources} source, improving: {', '.join(up) or 'none'}"
    return decide(False, sources == 1 and bool(up)), said


# --- what curves, rates and sources decide -------------------------------------------


def ceiling(evidence: Evidence, architectures: list[str]) -> Result:
    """Ten times more data would add less than the margin by both fitted forms."""
    improves = "improves" in evidence.verdicts(architectures)
    known = [a for a in architectures if a in evidence.curves]
    intervals = {
        a: [curve.interval("gain") for curve in evidence.curves[a].values()]
        for a in known
    }
    flat = all(high < MARGIN for pairs in intervals.values() for _, high in pairs)
    holds = flat and len(known) == len(architectures) and not improves
    gains = "; ".join(
        f"{a} {signed(min(low for low, _ in pairs))} to "
        f"{signed(max(high for _, high in pairs))}"
        for a, pairs in intervals.items()
    )
    said = f"ten times more data: {gains or 'not measured'}"
    return decide(holds, improves), f"{evidence.said(architectures)}; {said}"


def other_rate(evidence: Evidence) -> Result:
    """Another learning rate gains more than the margin at the larger size.

    That none does has to be seen in every architecture, and in two at least.
    """
    found = explanations.rates(evidence.everything)
    if found.empty:
        return OPEN, "no other rate was tried at the larger size"
    best = found.groupby("entry", sort=False)["difference"].max()
    said = "; ".join(f"{a} {signed(d, 4)}" for a, d in best.items())
    lack = explanations.untried(found, evidence.runs)
    said = f"best other rate, validation cosine: {said}"
    said += f"; not tried: {', '.join(lack)}" if lack else ""
    none = not lack and len(best) > 1 and (best <= MARGIN).all()
    return decide((best > MARGIN).any(), none), said


def diversity(evidence: Evidence) -> Result:
    """Needs vectors of several sources: a study has one dataset."""
    names = evidence.everything["dataset"].unique()
    return OPEN, f"{len(names)} source in these runs: {', '.join(names)}"


# --- what single runs decide ----------------------------------------------------------


def _overfit(row: pd.Series) -> tuple[bool, str]:
    """Say whether validation fell from its best while training went on rising."""
    history = load_run(row["folder"]).history
    best = history.loc[history["validation_cosine"].idxmax()]
    last = history.iloc[-1]
    lost = best["validation_cosine"] - last["validation_cosine"]
    rose = last["train_cosine"] >= best["train_cosine"]
    said = (
        f"{row['entry']} at {row['size']:,} ({row['protocol'].replace('_', ' ')}), "
        f"{row['status']}: from epoch {best['epoch']:.0f} to {last['epoch']:.0f} "
        f"validation {signed(-lost, 4)}, training "
        f"{signed(last['train_cosine'] - best['train_cosine'], 4)}"
    )
    return row["status"] == "trained" and lost > MARGIN and rose, said


def overfits(evidence: Evidence, architecture: str) -> Result:
    """On the larger set validation falls by more than the margin as training rises."""
    both = pd.concat([evidence.reported, evidence.everything]).drop_duplicates("folder")
    large = both[both["size"] == evidence.sizes[1]]
    cells = large[large["architecture"] == architecture]
    found = [_overfit(row) for _, row in cells.iterrows()]
    said = "; ".join(text for _, text in found) or "not measured"
    holds = any(overfit for overfit, _ in found)
    return decide(holds, bool(found) and not holds), said


def none_overfits(evidence: Evidence, architectures: list[str]) -> Result:
    """At the smaller size no run under the original protocol overfits."""
    small = evidence.reported[evidence.reported["size"] == evidence.sizes[0]]
    cells = small[small["entry"].isin(architectures)]
    found = [_overfit(row) for _, row in cells.iterrows()]
    fails = any(overfit for overfit, _ in found)
    complete = set(cells["entry"]) == set(architectures)
    said = "; ".join(text for _, text in found) or "not measured"
    return decide(complete and not fails, fails), said


def earlier_best_epoch(evidence: Evidence, architecture: str) -> Result:
    """Under the original protocol the best epoch comes far earlier with more data.

    Far is at most half as late; the original's went from 8 to 2.
    """
    own = evidence.reported[evidence.reported["entry"] == architecture]
    epochs = own.groupby("size")["best_epoch"].first().reindex(evidence.sizes)
    if epochs.isna().any():
        return OPEN, "not measured at both sizes"
    small, large = epochs
    far = large <= small / 2
    return decide(far, not far), f"epoch {small:.0f} → {large:.0f}"


def minutes(evidence: Evidence, low: float, high: float) -> Result:
    """Minutes of another machine cannot be measured here; ours stand beside them."""
    small = evidence.reported[evidence.reported["size"] == evidence.sizes[0]]
    if small.empty:
        return OPEN, "not measured"
    ours = small["wall_seconds"] / 60
    return OPEN, (
        f"{low:g} to {high:g} there; {ours.min():.1f} to {ours.max():.1f} on our "
        "machines, which are others"
    )


# --- what networks against each other decide -----------------------------------------


def _rivals(
    evidence: Evidence, architecture: str, others: list[str]
) -> tuple[set[str], set[str], str]:
    """Return whom it beats, who beats it, decided at the smaller size, and say it."""
    pairs = evidence.pairs
    decided = pairs[pairs["decided"]]
    beaten = set(decided["worse"][decided["better"] == architecture])
    beating = set(decided["better"][decided["worse"] == architecture])
    mine = pairs[(pairs["better"] == architecture) & (pairs["seeds"] > 1)]
    wins = mine.set_index("worse")["probability"].map("{:.2f}".format)
    texts = (f"{a} {wins.get(a, 'not measured with two seeds')}" for a in others)
    return beaten, beating, f"P({architecture} is better) than {'; '.join(texts)}"


def beats_all(
    evidence: Evidence, architecture: str, architectures: list[str]
) -> Result:
    """At the smaller size it is decided that it beats every other one."""
    others = [a for a in architectures if a != architecture]
    beaten, beating, said = _rivals(evidence, architecture, others)
    return decide(beaten.issuperset(others), not beating.isdisjoint(others)), said


def beaten_by_all(
    evidence: Evidence, architecture: str, architectures: list[str]
) -> Result:
    """At the smaller size it is decided that every other one beats it."""
    others = [a for a in architectures if a != architecture]
    beaten, beating, said = _rivals(evidence, architecture, others)
    return decide(beating.issuperset(others), not beaten.isdisjoint(others)), said


def balanced(evidence: Evidence, architecture: str) -> Result:
    """No network or baseline is as good in quality, latency, size and better in one."""
    networks, _ = recommendation(evidence.runs)
    if architecture not in networks.index:
        return OPEN, "not measured"
    costs = pd.concat([networks, evidence.baselines])
    rivals = dominating(costs)[costs.index.get_loc(architecture)]
    said = "; ".join(
        f"{name} {costs.test_cosine[name]:.4f} in {costs.latency_ms[name]:.1f} ms with "
        f"{costs.parameters[name] / 1e6:.1f} million parameters"
        for name in [architecture, *rivals]
    )
    return decide(not rivals, bool(rivals)), said


def worth_training(evidence: Evidence, architecture: str) -> Result:
    """Improve, and then be better than what needs no training."""
    (word,) = evidence.verdicts([architecture])
    large = evidence.runs[evidence.runs["size"] == evidence.sizes[1]]
    cell = large[large["entry"] == architecture]
    if cell.empty:
        return OPEN, "not measured"
    name, _ = best_baseline(cell)
    lead = over_baseline(cell, name)
    said = f"{evidence.said([architecture])}; over {BASELINES[name]} {_text(lead)}"
    fails = word in DECIDED and (word != "improves" or lead.high < 0)
    return decide(word == "improves" and lead.low > 0, fails), said


CHECKS = {
    check.__name__: check
    for check in (
        average_falls,
        balanced,
        beaten_by_all,
        beats_all,
        ceiling,
        change,
        diversity,
        earlier_best_epoch,
        minutes,
        most_scalable,
        no_gain,
        none_overfits,
        only_improver,
        only_with_diversity,
        other_rate,
        overfits,
        prefer_small,
        worth_training,
    )
}
