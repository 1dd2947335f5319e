# A study's runs and pages. `python -m lvmlib quick` (or `make report`) calls this twice:
# first for the runs, then for the report, so that a failed run does not keep the
# others from being reported. By hand: snakemake --cores 2 --config study=quick -- runs
#
# A run is redone when its recipe or dataset changes, never because of code or clocks:
# the recipe's hash is part of an output's name, and no run has an input file.
import re
import shlex

from lvmlib.study import HUGE_PAGES, read_study

study = read_study(config.get("study", "quick"), config.get("dataset", ""))
study.write_plan()
REPORT = f"reports/{study.name}"
PAGES = {f"{REPORT}/{run.page}": run for run in study.runs}


def evidence(run):
    """What a run has to show: run.json when it is done, else a failed notebook."""
    files = [run.folder / "run.json", run.folder / "notebook.ipynb"]
    return [str(file) for file in files if file.exists()][:1]


def has_notebook(run):
    """A run that was taken from reports/ has none; its page, if any, is there too."""
    return (run.folder / "notebook.ipynb").exists()


# Seconds each: not worth a job of a cluster.
localrules:
    page,
    report,


rule report:
    input:
        f"{study.folder}/study.json",
        [evidence(run) for run in study.runs],
        [page for page, run in PAGES.items() if has_notebook(run)],
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
        retries: 1  # kernels started side by side can race for a port
        shell:
            # glibc reads it at the start of a program; other systems ignore it.
            "GLIBC_TUNABLES={HUGE_PAGES} {params.command}"


rule page:
    input:
        lambda wildcards: evidence(PAGES[f"{REPORT}/{wildcards.page}.html"]),
    output:
        f"{REPORT}/{{page}}.html",
    wildcard_constraints:
        page="|".join(re.escape(run.page.removesuffix(".html")) for run in study.runs),
    params:
        notebook=lambda wildcards: PAGES[f"{REPORT}/{wildcards.page}.html"].folder / "notebook.ipynb",
    shell:
        "python -m lvmlib.publish --page {params.notebook:q} {output:q}"
