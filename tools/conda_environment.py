"""Write environment.yml, for conda users, from the dependency lists of pyproject.toml.

``python tools/conda_environment.py`` writes the file; the tests hold the two equal.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Written by `make lock` from pyproject.toml; change the lists there.\n"


def requirements(pyproject: dict) -> list[str]:
    """Return every requirement of the core and of all extras, sorted, once."""
    project = pyproject["project"]
    extras = project["optional-dependencies"].values()
    return sorted({*project["dependencies"], *(line for extra in extras for line in extra)})


def environment(pyproject: dict) -> str:
    """Return the text of environment.yml."""
    settings = pyproject["tool"]["conda-environment"]
    conda = [f"python ={settings['python']}"]
    pip = []
    for requirement in requirements(pyproject):
        name, bound = re.fullmatch(r"([A-Za-z0-9._-]+)(.*)", requirement).groups()
        if name in settings["pip-only"]:
            pip.append(requirement)
        else:
            conda.append(f"{settings['renamed'].get(name, name)} {bound}".strip())
    lines = [f"name: {settings['name']}", "channels:"]
    lines += [f"  - {channel}" for channel in settings["channels"]] + ["dependencies:"]
    lines += [f"  - {line}" for line in [conda[0], *sorted([*conda[1:], "pip"])]] + ["  - pip:"]
    lines += [f"      - {line}" for line in [*pip, "--editable ."]]
    return HEADER + "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = environment(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    (ROOT / "environment.yml").write_text(text, encoding="utf-8")
