"""What the documents say can be run, found and opened."""

import re
from pathlib import Path

import pytest

import ledger
from ledger import errors
from ledger.services.cli import cli

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "RUNBOOK.md", "CONTRIBUTING.md", "CHANGELOG.md", "ledger/FORMAT.md")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """Return the code blocks of a document in one language, "" for those that name none."""
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", text_of(name), flags=re.MULTILINE | re.DOTALL)
    return [body for kind, body in found if kind == language]


def test_the_example_of_the_readme_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("README.md", "python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out in blocks("README.md", "")


def test_the_move_to_a_larger_ledger_of_the_runbook_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ledger.GeometricLedger.open("PATH", ledger.Options(capacity=100, shards=2)) as book:
        book.update_batch([ledger.Account(bytes([n]) * 32, n, 0, 0, 0) for n in range(100)])
        before = book.state_hash()
    (example,) = blocks("RUNBOOK.md", "python")
    exec(compile(example, "RUNBOOK.md", "exec"), {})
    with ledger.GeometricLedger.open("PATH.larger", read_only=True) as book:
        assert (200, before) == (book.options.capacity, book.state_hash())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text_of(name)):
        assert (ROOT / name).parent.joinpath(target).exists(), target


def test_every_module_of_the_ledger_is_in_the_house_and_nothing_else():
    told = re.findall(r"^\| `(ledger/\S+\.py)` \|", text_of("ARCHITECTURE.md"), flags=re.MULTILINE)
    paths = (path for path in (ROOT / "ledger").rglob("*.py") if not path.name.startswith("__"))
    assert sorted(str(path.relative_to(ROOT)) for path in paths) == sorted(told)
    assert len(told) == len(set(told))


def test_modules_of_the_house_come_after_those_that_they_import():
    told = re.findall(r"^\| `(ledger/\S+)\.py` \|", text_of("ARCHITECTURE.md"), flags=re.MULTILINE)
    names = [path.replace("/", ".") for path in told]
    for number, path in enumerate(told):
        source = text_of(f"{path}.py").split("if TYPE_CHECKING:")[0]
        for found in re.findall(r"^from (ledger[.\w]*) import (\w+)", source, flags=re.MULTILINE):
            name = found[0] if found[0] in names else ".".join(found)
            assert name not in names[number + 1 :], f"{path} imports {name}, which comes after it"


def test_every_test_that_an_invariant_names_is_there():
    told = set(re.findall(r"`(test_\w+)`", text_of("ARCHITECTURE.md")))
    known = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        known |= set(re.findall(r"^\s*def (test_\w+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert told and not told - known


def test_every_error_has_its_place_in_the_runbook():
    runbook = text_of("RUNBOOK.md")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LedgerError)]
    for kind in kinds:
        if kind not in (errors.LedgerError, errors.FormatError):
            assert f"`{kind.__name__}`" in runbook, kind.__name__


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_of_the_command_line_exist(name):
    told = set(re.findall(r"geoledger ([a-z]+)", text_of(name)))
    assert told <= set(cli.commands)
    options = {option for command in cli.commands.values() for parameter in command.params for option in parameter.opts}
    for line in re.findall(r"^geoledger .*$", text_of(name), flags=re.MULTILINE):
        assert set(re.findall(r"--[a-z-]+", line)) <= options
