"""The lists of packages agree with each other, and the engine alone stays light."""

import importlib.metadata
import os
import re
import runpy
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
FUZZ_LOCK = (ROOT / "requirements-fuzz.lock").read_text(encoding="utf-8")
CONDA = runpy.run_path(str(ROOT / "tools" / "conda_environment.py"))


def lock_entries(lock: str = LOCK) -> list[str]:
    """Return a lock cut into entries: a pinned package, its hashes, and who asked for it."""
    return re.split(r"^(?=[^\s#])", lock, flags=re.MULTILINE)[1:]


def locked_versions() -> dict[str, set[str]]:
    versions: dict[str, set[str]] = {}
    for entry in lock_entries():
        name, version = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", entry).groups()
        versions.setdefault(canonicalize_name(name), set()).add(version)
    return versions


def wanted() -> list[Requirement]:
    return [Requirement(line) for line in CONDA["requirements"](PYPROJECT)]


def test_core_dependencies_are_the_light_ones():
    names = {Requirement(line).name for line in PYPROJECT["project"]["dependencies"]}
    assert {"blake3", "click", "numba", "numpy"} == names


def test_conda_environment_equals_what_pyproject_generates():
    assert CONDA["environment"](PYPROJECT) == (ROOT / "environment.yml").read_text(encoding="utf-8")


def test_repo2docker_takes_the_conda_environment_as_it_stands():
    """It reads ``python =X.Y`` for its base, and copies the project first only if a line of pip names a local path."""
    text = CONDA["environment"](PYPROJECT)
    (python,) = re.findall(r"^  - python\s*=+\s*([\d.]+)$", text, flags=re.MULTILINE)
    assert f"Programming Language :: Python :: {python}" in PYPROJECT["project"]["classifiers"]
    lines = text.partition("  - pip:\n")[2].splitlines()
    assert ["."] == [line.split()[-1] for line in lines if re.fullmatch(r"\s+- --editable \.\S*", line)]
    assert not (ROOT / "binder").exists() and not (ROOT / ".binder").exists(), "it would look there alone"


def test_conda_environment_follows_a_change_of_pyproject():
    changed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    changed["project"]["dependencies"].append("brand-new>=7")
    changed["tool"]["conda-environment"]["pip-only"].append("tqdm")
    text = CONDA["environment"](changed)
    assert "  - brand-new >=7\n" in text
    assert "      - tqdm>=" in text and "  - tqdm >=" not in text


def test_lock_names_exactly_what_pyproject_asks_for():
    asked_by_us = {
        canonicalize_name(entry.split("==")[0])
        for entry in lock_entries()
        if "geometricledger (pyproject.toml)" in entry
    }
    assert {canonicalize_name(requirement.name) for requirement in wanted()} == asked_by_us, "run `make lock`"


def test_locked_versions_are_within_the_bounds_of_pyproject():
    versions = locked_versions()
    for requirement in wanted():
        for version in versions[canonicalize_name(requirement.name)]:
            assert requirement.specifier.contains(version), f"{requirement} is locked at {version}: run `make lock`"


def test_every_locked_package_has_a_hash():
    entries = lock_entries() + lock_entries(FUZZ_LOCK)
    assert [] == [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.14"])
def test_the_fuzzer_has_a_lock_of_its_own_that_fits_its_group(python):
    machine = {"sys_platform": "linux", "platform_machine": "x86_64", "python_version": python}
    machine["python_full_version"] = f"{python}.0"
    group = map(Requirement, PYPROJECT["dependency-groups"]["fuzz"])
    (asked,) = (requirement for requirement in group if requirement.marker.evaluate(machine))
    locked = [Requirement(entry.splitlines()[0].rstrip(" \\")) for entry in lock_entries(FUZZ_LOCK)]
    (found,) = (requirement for requirement in locked if requirement.marker.evaluate(machine))
    assert asked.name == found.name == "atheris"
    assert asked.specifier.contains(str(found.specifier).removeprefix("=="))
    assert "atheris" not in LOCK


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-fuzz.lock", "environment.yml", "pyproject.toml"])
def test_no_address_in_the_lists_of_packages(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert [] == re.findall(r"\S*://\S*|--(?:extra-)?index-url.*|--find-links.*|\S+ @ \S+", text)


def test_installed_version_is_that_of_pyproject():
    assert PYPROJECT["project"]["version"] == importlib.metadata.version("geometricledger")


def test_ci_is_strict_and_runs_make_test():
    script = ROOT / ".ci" / "run"
    lines = script.read_text(encoding="utf-8").splitlines()
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in lines
    assert "make test" == lines[-1]


def test_make_report_prints_nothing_after_the_run():
    plan = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "report"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert plan.stdout.splitlines()[-1].endswith(
        "-m experiments run capacity hugepages prefetch durability --profile quick"
    )


@pytest.mark.parametrize("script", ["tools/setup.sh", "tools/home.sh", "tools/fuzz.sh"])
def test_set_up_scripts_are_plain_sh(script):
    subprocess.run(["sh", "-n", script], cwd=ROOT, check=True)
    assert "[[" not in (ROOT / script).read_text(encoding="utf-8")
