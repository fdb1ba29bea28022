"""The shape of the package: imports point down, names are documented."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import ledger

PACKAGE = Path(ledger.__file__).resolve().parent

# A module imports only modules of a lower rank. Siblings of one rank do not know each other.
# services -> ledger.py -> inspection.py -> opening.py -> engine -> storage -> kernels -> base; warm_up uses a whole
# ledger, so it stands above ledger.py although it lies beside the engine.
RANKS = {
    "errors": 0, "layout": 0, "pictures": 0, "stats": 1, "options": 1, "inputs": 1,
    "kernels.jit": 10, "kernels.intrinsics": 11, "kernels.hashing": 12, "kernels.records": 13, "kernels.index": 14,
    "kernels.pipeline": 15, "kernels.batch_write": 16, "kernels.batch_read": 16, "kernels.single": 16,
    "storage.directio": 20, "storage.mapping": 20, "storage.headers": 20, "storage.frames": 21, "storage.files": 21,
    "storage.control": 22, "storage.segments": 22, "storage.log_reader": 23, "storage.image": 23, "storage.shard": 24,
    "storage.log": 24, "storage.journal": 25,
    "engine.pool": 30, "engine.commit": 30, "engine.apply": 31, "engine.passes": 32, "engine.requests": 32,
    "engine.commit_direct": 33, "engine.commit_logged": 33, "engine.checkpoint": 33, "engine.readahead": 33,
    "engine.salvage": 33, "engine.lookup": 33, "engine.recovery": 34,
    "opening": 40, "inspection": 41, "ledger": 42, "engine.warmup": 43, "": 44,
    "services.tables": 50, "services.cli": 51, "__main__": 60,
}  # fmt: skip
THIRD_PARTY = {
    "numpy": ("",), "numba": ("kernels", "services.cli"), "llvmlite": ("kernels",), "blake3": ("storage.frames",),
    "click": ("services",),
}  # fmt: skip


def modules():
    """Return every module's name below the package and its syntax tree."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()
FOLDERS = {"kernels", "storage", "engine", "services"}


def imports(tree):
    """Yield the full names of what a module imports, wherever in it; what only type checkers read is left out."""
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner.removeprefix("ledger.") in MODULES else node.module


def test_every_module_has_a_rank():
    assert set(RANKS) | FOLDERS == set(MODULES)
    for folder in FOLDERS:
        assert [] == list(imports(MODULES[folder])), "the __init__ of a folder imports nothing"


@pytest.mark.parametrize("name", [name for name in MODULES if name not in FOLDERS])
def test_imports_point_down(name):
    for target in imports(MODULES[name]):
        top, _, rest = target.partition(".")
        if top == "ledger" and rest not in FOLDERS:
            assert RANKS[rest] < RANKS[name] or name == "__main__", f"{name} imports {target}"
        assert top not in ("experiments", "tests", "notebooks"), f"{name} imports {target}"
        if top in THIRD_PARTY:
            assert name.startswith(THIRD_PARTY[top]), f"{name} imports {target}"
        elif top != "ledger":
            assert top in sys.stdlib_module_names, f"{name} imports {target}"


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_says_what_it_is(name):
    tree = MODULES[name]
    if name not in FOLDERS or tree.body:
        assert name in FOLDERS or ast.get_docstring(tree), name
    for node in tree.body:
        public = isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith(
            "_"
        )
        if public:
            assert ast.get_docstring(node), f"{name}.{node.name}"
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    assert ast.get_docstring(inner), f"{name}.{node.name}.{inner.name}"


def test_kernels_hold_no_python_objects_clocks_or_files():
    allowed = {
        "__future__",
        "numpy",
        "numba",
        "llvmlite",
        "ledger",
        "collections",
        "typing",
        "sys",
        "platform",
        "ctypes",
    }
    for name in (
        "kernels.records",
        "kernels.index",
        "kernels.pipeline",
        "kernels.batch_write",
        "kernels.batch_read",
        "kernels.single",
        "kernels.hashing",
    ):
        tops = {target.partition(".")[0] for target in imports(MODULES[name])}
        assert set() == tops - allowed, name
