"""The Slurm profile, read by Snakemake and the plugin: a plan needs no cluster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lvmlib.study import read_study

pytest.importorskip("snakemake_executor_plugin_slurm")

PROJECT = Path(__file__).parent.parent
PROFILE = PROJECT / "profiles" / "slurm"


def test_the_profile_gives_every_run_its_limits(tmp_path):
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "100"]
    result = subprocess.run(
        [*command, "--config", "study=quick", "--", "runs"],
        cwd=PROJECT,
        env=os.environ | {"LVM_RUNS": str(tmp_path), "SNAKEMAKE_PROFILE": str(PROFILE)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    limits = yaml.safe_load((PROFILE / "config.yaml").read_text())["default-resources"]
    planned = re.findall(r"rule \w+_seed0:.*?resources: ([^\n]*)", result.stdout, re.S)
    assert len(planned) == len(read_study("quick").runs) > 1
    for resources in planned:
        assert {f"{k}={v}" for k, v in limits.items()} <= set(resources.split(", "))
