"""Parameters of a notebook: which are read, which refused."""

from __future__ import annotations

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from papermill.cli import papermill

from lvmlib.names import ParameterError, read_parameters
from lvmlib.recipe import Settings, notebook_settings

VALID = ("size", "seed", "epochs", "dataset", "learning_rate")
CALL_FAILED = "'a call that was refused'"
CALL = "settings = lvmlib.notebook_settings(globals(), 'amn')"
TEMPLATE = """# Parameters
dataset: str = ""  # a folder; empty is the sample
size: int = 2000  # training vectors
seed: int = 0
"""


def run_cells(*cells):
    """Return globals() as a kernel has them after running the cells, then `CALL`."""
    namespace = {"In": [""]}
    for cell in cells:
        namespace["In"].append(cell)
        # As a kernel does it: annotations are types, not this file's texts.
        exec(compile(cell, "cell", "exec", dont_inherit=True), namespace)
    namespace["In"].append(CALL)
    return namespace


def test_the_parameters_cell_alone():
    namespace = run_cells("import math\nother = 3", TEMPLATE, "misspelt_seed = 3")
    found = read_parameters(namespace, VALID)
    assert found == {"dataset": "", "size": 2000, "seed": 0}


def prepared(tmp_path, *arguments):
    """Return the globals of a notebook that papermill's command line prepared."""
    cell = new_code_cell(TEMPLATE, metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "in.ipynb")
    paths = [str(tmp_path / name) for name in ("in.ipynb", "out.ipynb")]
    papermill.main([*paths, "--prepare-only", *arguments], standalone_mode=False)
    cells = nbformat.read(paths[1], 4).cells
    return run_cells(*(cell.source for cell in cells if cell.cell_type == "code"))


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["-p", "size", "1e400"], "'size' is inf (float), expected int"),
        (["-p", "size", "no"], "'size' is 'no' (str), expected int"),
        (["-p", "size", "True"], "'size' is True (bool), expected int"),
        (["-p", "dataset", "7"], "'dataset' is 7 (int), expected str"),
        (["-y", "seed: 2020-01-01"], "'seed' is '2020-01-01' (str), expected int"),
        (["-y", "seed:"], "'seed' is None (NoneType), expected int"),
    ],
)
def test_what_papermill_gives_is_of_the_type_that_the_cell_says(
    tmp_path, arguments, found
):
    with pytest.raises(ParameterError, match=re.escape(f"parameter {found}.")):
        read_parameters(prepared(tmp_path, *arguments), VALID)


def test_papermill_gives_numbers_as_people_write_them(tmp_path):
    (tmp_path / "empty.yaml").touch()
    empty = ["-f", str(tmp_path / "empty.yaml")]
    defaults = {"dataset": "", "size": 2000, "seed": 0}
    assert read_parameters(prepared(tmp_path, *empty), VALID) == defaults
    given = read_parameters(prepared(tmp_path, "-p", "size", "007"), VALID)
    assert given == defaults | {"size": 7}


def test_plain_assignments_and_blank_lines():
    namespace = run_cells("\n# Parameters\nimport os\nsize = 7\n\nseed = size + 1\n")
    assert read_parameters(namespace, VALID) == {"size": 7, "seed": 8}


def test_injected_parameters_win():
    injected = "# Parameters\nsize = 300\nlearning_rate = 0.01\n"
    found = read_parameters(run_cells(TEMPLATE, injected), VALID)
    assert found == {"dataset": "", "size": 300, "seed": 0, "learning_rate": 0.01}


def test_an_unknown_injected_parameter_is_refused():
    injected = "# Parameters\nsize = 300\nepoch = 3\n"
    with pytest.raises(ParameterError, match=r"'epoch'\. Did you mean 'epochs'"):
        read_parameters(run_cells(TEMPLATE, injected), VALID)


def test_an_unknown_parameter_of_the_notebook_itself_is_refused():
    wrong = TEMPLATE + "sedd: int = 3\n"
    with pytest.raises(ParameterError, match=r"'sedd'\. Did you mean 'seed'"):
        read_parameters(run_cells(wrong), VALID)
    with pytest.raises(ParameterError, match="'sedd'"):
        read_parameters(run_cells(wrong, "# Parameters\nsize = 3\n"), VALID)


def test_a_corrected_cell_later_in_the_session():
    wrong = TEMPLATE + "sedd: int = 3\n"
    right = TEMPLATE.replace("2000", "500")
    for between in ([CALL_FAILED], []):
        found = read_parameters(run_cells(wrong, *between, right), VALID)
        assert found == {"dataset": "", "size": 500, "seed": 0}
        with pytest.raises(ParameterError, match="'sedd'"):
            read_parameters(run_cells(right, *between, wrong), VALID)


def test_a_cell_that_no_longer_sets_a_parameter():
    namespace = run_cells(TEMPLATE + "epochs: int = 9\n", CALL_FAILED, TEMPLATE)
    assert "epochs" not in read_parameters(namespace, VALID)


def test_notebook_settings_check_names_and_types():
    settings = notebook_settings(run_cells(TEMPLATE), "amn")
    assert settings == Settings("amn", size=2000)
    injected = "# Parameters\nsize = 300\nmask = 'smooth'\n"
    settings = notebook_settings(run_cells(TEMPLATE, injected), "graphmert")
    assert settings == Settings("graphmert", size=300, options={"mask": "smooth"})
    with pytest.raises(ParameterError, match="'mask'"):
        notebook_settings(run_cells(TEMPLATE, injected), "amn")
    wrong = "# Parameters\nsize = 'many'\n"
    with pytest.raises(ParameterError, match="size"):
        notebook_settings(run_cells(TEMPLATE, wrong), "amn")
