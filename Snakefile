# A study's runs and pages. `python -m lvmlib quick` (or `make report`) calls this twice:
# first for the runs, then for the report, so that a failed run does not keep the
# others from being reported. By hand: snakemake --cores 2 --config study=quick -- runs
#
# A run is redone when its recipe or dataset changes, never because of code or clocks:
# the recipe's hash is part of an output's name, and no run has an input file.
import shlex

from lvmlib.study import HUGE_PAGES, read_study

study = read_study(config.get("study", "quick"), config.get("dataset", ""))
study.write_plan()
REPORT = f"reports/{study.name}"


def evidence(run):
    """What a run has to show: run.json when it is done, else a failed notebook."""
    files = [run.folder / "run.json", run.folder / "notebook.ipynb"]
    return [str(file) for file in files if file.exists()][:1]


# A minute at most: not worth a job of a cluster.
localrules:
    report,


rule report:
    input:
        f"{study.folder}/study.json",
        [evidence(run) for run in study.runs],
    output:
        f"{REPORT}/index.html",
        f"{REPORT}/results.csv",
    shell:
        "python -m lvmlib.publish {study.name:q} --render --runs {study.folder:q}"


rule runs:
    input:
        [f"{run.folder}/recipe-{run.recipe_hash}.json" for run in study.runs],


for run in study.runs:

    # The costliest runs start first, so that no core idles at the end.
    rule:
        name:
            f"{run.entry}_{run.settings.size}_{run.settings.recipe.arm}_seed{run.settings.seed}"
        output:
            f"{run.folder}/run.json",
            f"{run.folder}/recipe-{run.recipe_hash}.json",
        log:
            f"{run.folder}/notebook.ipynb",
        params:
            command=shlex.join(
                ["papermill", "--no-progress-bar", "-k", "python3"]
                + [f"notebooks/{run.settings.architecture}.ipynb"]
                + [f"{run.folder}/notebook.ipynb"]
                + run.settings.arguments()
            ),
        priority: int(run.cost / 1e9)
        threads: study.threads
        shell:
            # glibc reads it at the start of a program; other systems ignore it.
            # Kernels started side by side can race for a port: once more then, but not
            # where a cell failed, which would fail again.
            "run() {{ GLIBC_TUNABLES={HUGE_PAGES} {params.command}; }}; "
            "run || {{ ! grep -qs '\"ename\":' {log:q} && run; }}"
