"""The notebooks: as files, run in one process, and refusing unknown parameters.

nbval runs what the Makefile names. All others, from those that answer a question from
committed runs to those that train a model, a small one here, are run in this process: a
kernel of its own for each would spend longer on imports than on cells.
"""

import ast
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from papermill.inspection import inspect_notebook

from lvmlib.corpus.sources import SourceError
from lvmlib.models import ARCHITECTURES
from lvmlib.names import ParameterError
from lvmlib.publish import ANSWER, ANSWER_ENDS
from lvmlib.recipe import make_settings
from lvmlib.records import load_run
from lvmlib.results import study_pages

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.rglob("[!.]*.ipynb"))
# Their kernels are nbval's; amn, summary and runs also have one in test_end_to_end.
ALONE = {"data", "explore", "benchmark"}
SMALL = {"size": 250, "epochs": 1, "running_mean": True}
every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path):
    return nbformat.read(path, as_version=4).cells


def test_every_architecture_and_every_page_has_its_notebook():
    pages = study_pages(FOLDER.parent / "reports/reference/runs")
    assert {path.stem for path in NOTEBOOKS} >= {*ARCHITECTURES, *pages, "summary"}


@every
def test_committed_without_outputs(path):
    for cell in cells(path):
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@every
def test_prose_stands_before_every_code_cell(path):
    for before, cell in pairwise(cells(path)):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", cell.source


@every
def test_no_result_is_typed_into_prose(path):
    """A decimal in Markdown is a number that no code produced."""
    for cell in cells(path):
        if cell.cell_type == "markdown":
            code = re.sub(r"```.*?```|`[^`]*`", "", cell.source, flags=re.DOTALL)
            assert not re.search(r"(?<![\w.])\d*\.\d", code), cell.source


def texts_of(shown):
    return [output.data.get("text/markdown", "") for output in shown.outputs]


@pytest.mark.parametrize(
    "name", sorted({p.stem for p in NOTEBOOKS} - ALONE - {*ARCHITECTURES, "front"})
)
def test_a_question_is_answered_from_committed_runs(name, run_notebook):
    shown = run_notebook(name)
    assert any(texts_of(shown))
    assert not shown.stderr


def test_the_readme_answers_what_the_committed_runs_answer(run_notebook):
    readme = (FOLDER.parent / "README.md").read_text()
    answer = readme.split(ANSWER)[1].split(ANSWER_ENDS)[0]
    told = [text.split() for text in texts_of(run_notebook("front"))]
    assert answer.split() in told


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_is_trained_and_looked_at(
    name, run_notebook, monkeypatch, runs_folder, dataset_folder
):
    monkeypatch.setenv("LVM_RUNS", str(runs_folder))  # one fit of the baselines for all
    vectors = {} if name == "amn" else {"dataset": str(dataset_folder)}  # amn: ours
    shown = run_notebook(name, **SMALL, **vectors)
    run = load_run(runs_folder / "interactive" / name / "250/epochs/seed0")
    assert run.info["parameters"].items() >= SMALL.items()
    cosine = f"{run.info['test']['cosine']:.4f}"
    assert any(cosine in str(output.data) for output in shown.outputs)


def test_the_makefile_gives_nbval_all_others():
    makefile = (FOLDER.parent / "Makefile").read_text()
    (names,) = re.findall(r"^KERNELS = (.*)$", makefile, re.MULTILINE)
    assert set(names.split()) == ALONE - {"benchmark"}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_architectures_share_is_the_same_in_all(name):
    """Cells of amn's notebook with these words stand in every other one, too."""
    shared = ("notebook_settings", "make_split", "new_model", "lvmlib.run", "scores[")
    shared += ("metrics_table", "runs.command")
    own = [cell.source for cell in cells(FOLDER / f"{name}.ipynb")]
    for cell in cells(FOLDER / "amn.ipynb"):
        if any(word in cell.source for word in shared) and cell.cell_type == "code":
            assert cell.source.replace('"amn"', f'"{name}"') in own


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_papermill_and_the_library_know_the_same_parameters(name):
    shown = inspect_notebook(str(FOLDER / f"{name}.ipynb"))
    values = {k: ast.literal_eval(v["default"]) for k, v in shown.items()}
    settings = make_settings(name, values)  # refuses unknown names and wrong types
    assert settings.parameters().items() <= values.items()
    assert all(parameter["help"] for parameter in shown.values())


@every
def test_every_notebook_refuses_what_it_does_not_know(path):
    code = "\n".join(c.source for c in cells(path) if c.cell_type == "code")
    assert "read_parameters(globals()" in code or "notebook_settings(globals()" in code


def test_a_misspelt_parameter_stops_the_notebook(run_notebook):
    with pytest.raises(ParameterError, match=r"Did you mean 'study'\?"):
        run_notebook("rates", studi="x")


def test_a_source_that_is_not_there_stops_the_data_notebook(run_notebook, tmp_path):
    output = tmp_path / "built"
    with pytest.raises(SourceError, match=r"nothing\.xml\.bz2"):
        run_notebook(
            "data", source=str(tmp_path / "nothing.xml.bz2"), output=str(output)
        )
    assert not output.exists()
