"""Names that a notebook or a file gives: read, and refused if there is none such.

Apart from what is run, since no page that only reads results needs torch.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from typing import Any


class ParameterError(ValueError):
    """A parameter is unknown, misspelt, of the wrong type or out of range."""


def unknown_name(what: str, found: str, valid: Iterable[str]) -> ValueError:
    """Return the error for a name that is none of `valid`, with the nearest one."""
    valid = list(valid)
    near = difflib.get_close_matches(str(found), valid, n=1, cutoff=0)[0]
    return ValueError(
        f"Unknown {what}: {found!r}. Did you mean {near!r}? Valid: {', '.join(valid)}."
    )


def check_names(given: Iterable[str], valid: Iterable[str]) -> None:
    """Raise ParameterError at the first of `given` that is not among `valid`."""
    valid = list(valid)
    for name in given:
        if name not in valid:
            raise ParameterError(unknown_name("parameter", name, sorted(valid)))


def read_parameters(namespace: dict[str, Any], valid: Iterable[str]) -> dict[str, Any]:
    """Collect a notebook's parameters and refuse unknown ones.

    The parameters cell and the cell that papermill injects after it both begin with
    the comment "# Parameters"; every name that the latest of them assign must be
    valid. papermill itself only warns.

    Parameters
    ----------
    namespace : dict
        The notebook's globals(), which hold the source of its cells in `In`.

    Raises
    ------
    ParameterError
        Naming the unknown parameter and the nearest valid one, or one whose value is of
        another type than the parameters cell says.
    """
    valid = list(valid)
    cells = [cell.lstrip() for cell in namespace.get("In", [])]
    marked = [n for n, cell in enumerate(cells) if cell.startswith("# Parameters")]
    if not marked:  # run without history, as nbval does: nothing was injected either
        return {name: namespace[name] for name in valid if name in namespace}
    group = marked[-1:]
    # The injected cell follows at once; a cell that was run again has annotations.
    while group and group[0] - 1 in marked and not _is_annotated(cells[group[0]]):
        group.insert(0, group[0] - 1)
    names = [
        target.id
        for n in group
        for node in ast.parse(cells[n]).body
        for target in getattr(node, "targets", [getattr(node, "target", None)])
        if isinstance(target, ast.Name)
    ]
    check_names(names, valid)
    types = namespace.get("__annotations__", {})
    for name in names:
        value, expected = namespace[name], types.get(name)
        # A rate may be text such as "1e-3", see `lvmlib.recipe`.
        if expected in (str, bool, int) and type(value) is not expected:
            raise ParameterError(
                f"parameter {name!r} is {value!r} ({type(value).__name__}), expected "
                f"{expected.__name__}."
            )
    return {name: namespace[name] for name in names}


def _is_annotated(cell: str) -> bool:
    return any(isinstance(node, ast.AnnAssign) for node in ast.parse(cell).body)
