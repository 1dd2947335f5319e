"""Where the time of a small study goes: reports/benchmark/study.csv.

python notebooks/measured/waiting.py reports/benchmark/study.csv

Runs the quick study from nothing in a temporary folder, on all cores, as `make report`
does, and reads what its runs and their notebooks say of their time.
"""

import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import nbformat
import pandas as pd

from lvmlib.records import load_run
from lvmlib.runs import processor_name


def parts_of(folder):
    """Return the seconds of a run by part, and when its notebook ended."""
    notebook = nbformat.read(folder / "notebook.ipynb", as_version=4)
    whole, run = notebook.metadata.papermill, load_run(folder)
    spent = {"imports": 0.0, "data and figures": 0.0, "run": 0.0}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            what = "imports" if "import lvmlib" in cell.source else "data and figures"
            what = "run" if "lvmlib.run(" in cell.source else what
            spent[what] += cell.metadata.papermill.duration or 0
    training = run.history["seconds"].sum()
    parts = {"training": training, "evaluation and baselines": spent["run"] - training}
    parts |= {key: spent[key] for key in ("imports", "data and figures")}
    parts["kernel and papermill"] = whole.duration - sum(spent.values())
    return parts, datetime.fromisoformat(whole.end_time).timestamp()


def main(output):
    """Run the study once and write a row a run, and one for all that is around them."""
    with tempfile.TemporaryDirectory() as runs:
        environment = os.environ | {"LVM_RUNS": runs}
        begun, started = time.time(), time.monotonic()
        command = [sys.executable, "-m", "lvmlib", "quick"]
        subprocess.run(command, env=environment, check=True)
        wall, rows, ends = time.monotonic() - started, [], []
        for done in sorted(Path(runs, "quick").glob("**/run.json")):
            parts, end = parts_of(done.parent)
            ends.append(end)
            place = done.parent.relative_to(Path(runs, "quick")).parts
            rows.append({"run": f"{place[0]}, {int(place[1]):,}"} | parts)
    table = pd.DataFrame(rows)
    around = {"run": "the study", "wall": wall, "report": wall - (max(ends) - begun)}
    table = pd.concat([table, pd.DataFrame([around])])
    table["processor"], table["cores"] = processor_name(), os.cpu_count()
    table.to_csv(output, index=False)
    print(table.to_string())


if __name__ == "__main__":
    main(sys.argv[1])
