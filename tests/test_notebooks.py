"""The notebooks as files, and their refusal of unknown parameters.

That they run top to bottom is checked by nbval in `make test`.
"""

import ast
from itertools import pairwise
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError
from papermill.inspection import inspect_notebook

from lvmlib.models import ARCHITECTURES
from lvmlib.recipe import make_settings

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


def test_every_architecture_has_its_notebook():
    assert {path.stem for path in NOTEBOOKS} >= {*ARCHITECTURES, "summary"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs(path):
    for cell in read(path).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_prose_stands_before_every_code_cell(path):
    cells = read(path).cells
    for before, cell in pairwise(cells):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_cells_are_short(path):
    for cell in read(path).cells:
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get(
            "tags", []
        ):
            assert len(cell.source.splitlines()) <= 14, cell.source


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_papermill_and_the_library_know_the_same_parameters(name):
    shown = inspect_notebook(str(FOLDER / f"{name}.ipynb"))
    values = {k: ast.literal_eval(v["default"]) for k, v in shown.items()}
    settings = make_settings(name, values)  # refuses unknown names and wrong types
    assert settings.parameters().items() <= values.items()
    assert all(parameter["help"] for parameter in shown.values())


@pytest.mark.parametrize(
    ("notebook", "misspelt", "nearest"),
    [
        ("amn", "epoch", "epochs"),
        ("graphmert", "masks", "mask"),
        ("summary", "studi", "study"),
        ("explore", "studdy", "study"),
        ("data", "sources", "source"),
        ("benchmark", "round", "rounds"),
    ],
)
def test_a_misspelt_parameter_stops_the_notebook(tmp_path, notebook, misspelt, nearest):
    with pytest.raises(PapermillExecutionError) as error:
        papermill.execute_notebook(
            FOLDER / f"{notebook}.ipynb",
            tmp_path / "out.ipynb",
            parameters={misspelt: 1},
            kernel_name="python3",
            progress_bar=False,
        )
    assert f"Did you mean {nearest!r}?" in str(error.value)
    assert not list(tmp_path.rglob("run.json"))
