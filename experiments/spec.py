"""An experiment's file: its question, factors with levels for each profile, workload and figures.

``specs/NAME.toml`` holds everything that a run can vary. What is misspelt in it, or asked of it, is an
error before anything starts: a run that silently took a default answers a question nobody asked.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from experiments import values
from experiments.errors import ParameterError, SpecError, nearest

PACKAGE: Final = Path(__file__).parent
SPECS: Final = PACKAGE / "specs"
NOTEBOOKS: Final = Path(__file__).parent.parent / "notebooks"
SPECS_VARIABLE: Final = "EXPERIMENTS_SPECS"
"""Names a folder of further specs, with their notebooks and modules; it is looked through first."""
PROFILES: Final = ("smoke", "quick", "standard", "full")
RUN_PARAMETERS: Final = {"repeats": 1, "seed": 1, "run_id": "", "rerun": False}

_KEYS: Final = {
    "question", "expectation", "notebook", "trial", "analysis", "timeout_s", "repeats", "factors", "workload",
    "metrics", "figures", "not_applicable", "skip", "references", "files",
}  # fmt: skip
_REQUIRED: Final = _KEYS - {
    "analysis", "timeout_s", "not_applicable", "skip", "metrics", "notebook", "expectation", "references",
    "files",
}  # fmt: skip


@dataclass(frozen=True)
class Factor:
    """One thing that is varied: its name, its plural (the notebook's parameter), unit, and levels a profile.

    `choices` are all levels that there are, where a spec names them.
    """

    name: str
    parameter: str
    unit: str
    text: str
    levels: Mapping[str, list[Any]]
    choices: tuple[Any, ...] = ()

    def check(self, level: Any) -> None:
        """Refuse a level that is none of the choices."""
        if self.choices and level not in self.choices:
            hint = nearest(str(level), map(str, self.choices))
            raise ParameterError(f"{self.name} cannot be {level}", hint=hint, name=self.name)


@dataclass(frozen=True)
class Rule:
    """Cells to leave out: all levels named in `when` match."""

    when: Mapping[str, list[Any]]
    reason: str

    def matches(self, factors: Mapping[str, Any]) -> bool:
        """Return whether a cell with these levels falls under the rule."""
        return all(factors[name] in levels for name, levels in self.when.items())


@dataclass(frozen=True)
class Spec:
    """One experiment as its file describes it.

    `references` names for an operation another one of the same trial that is not the engine and is bound by the same
    thing (a floor, the bare disk, another store): runs of different times are compared by the ratio to it.
    """

    name: str
    question: str
    expectation: str
    notebook: str
    trial: str
    analysis: str
    timeout_s: float
    repeats: Mapping[str, int]
    factors: Mapping[str, Factor]
    workload: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, str]
    figures: Mapping[str, str]
    references: Mapping[str, str]
    not_applicable: tuple[Rule, ...]
    skip: tuple[Rule, ...]
    digest: str

    @property
    def parameters(self) -> set[str]:
        """Names that the notebook's parameters cell has, and no others."""
        plural = {factor.parameter for factor in self.factors.values()}
        return plural | set(self.workload["smoke"]) | set(RUN_PARAMETERS)

    def defaults(self, profile: str) -> dict[str, Any]:
        """Return the value of every notebook parameter at a profile."""
        check_profile(profile)
        levels = {factor.parameter: list(factor.levels[profile]) for factor in self.factors.values()}
        return {**levels, **self.workload[profile], **RUN_PARAMETERS, "repeats": self.repeats[profile]}

    def choose(self, profile: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults of a profile with `changes`, which may name factors in singular or plural.

        Raises
        ------
        ParameterError
            A name is unknown or a value is of another kind than the profile's own.
        """
        chosen = self.defaults(profile)
        singular = {factor.name: factor.parameter for factor in self.factors.values()}
        factors = {factor.parameter: factor for factor in self.factors.values()}
        for name, value in changes.items():
            parameter = name if name in chosen else singular.get(name, name)
            if parameter not in chosen:
                hint = nearest(name, set(chosen) | set(singular))
                raise ParameterError(f"{self.name} has no parameter {name}", hint=hint, name=name)
            value = values.parse(name, value)
            default = chosen[parameter]
            if isinstance(default, list):
                value = value if isinstance(value, list) else [value]
                if not value:
                    raise ParameterError(f"{name} has no levels", hint="give at least one", name=name)
                value = [values.match_kind(name, item, default[0]) for item in value]
                if len(set(value)) < len(value):
                    raise ParameterError(f"{name} has a level twice", name=name)
                for level in value if parameter in factors else ():
                    factors[parameter].check(level)
            else:
                value = values.match_kind(name, value, default)
            chosen[parameter] = value
        for name in ("repeats", "seed"):
            if not 1 <= chosen[name] < 1 << 32:
                raise ParameterError(f"{name} is {chosen[name]}", hint="give 1 or more", name=name)
        return chosen


def names() -> list[str]:
    """Return the names of all experiments, sorted."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.toml")})


def load(name: str | Path) -> Spec:
    """Read an experiment by its name in ``specs/`` or by the path of its file.

    Raises
    ------
    ParameterError
        There is no such experiment.
    SpecError
        Its file is not valid; the message names the key.
    """
    candidates = [Path(name)] if str(name).endswith(".toml") else [folder / f"{name}.toml" for folder in _folders()]
    path = next((path for path in candidates if path.is_file()), None)
    import_own()
    if path is None:
        hint = nearest(str(name), names())
        raise ParameterError(f"there is no experiment {name}", hint=hint, name=str(name))
    data = path.read_bytes()
    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path.name}: {error}") from None
    if "files" in table:  # what else decides a trial: it makes the plan another one when it changes
        data += b"".join(more.read_bytes() for more in sorted(PACKAGE.glob(table["files"])))
    return _build(path.stem, table, hashlib.sha256(data).hexdigest()[:16])


def check_profile(profile: str) -> None:
    """Refuse a profile that does not exist."""
    if profile not in PROFILES:
        raise ParameterError(f"there is no profile {profile}", hint=nearest(profile, PROFILES), name="profile")


def resolve(reference: str) -> Callable[..., Any]:
    """Return the function that ``module:function`` names."""
    module, _, function = reference.partition(":")
    import_own()
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise SpecError(f"{reference} cannot be imported: {error}", hint="write module:function") from error


def notebook(name: str) -> Path:
    """Return the notebook that a spec names: beside specs of one's own, or of the project."""
    return next((path for folder in own_folders() if (path := folder / name).is_file()), NOTEBOOKS / name)


def own_folders() -> list[Path]:
    """Return the folder that $EXPERIMENTS_SPECS names, if any."""
    named = os.environ.get(SPECS_VARIABLE)
    return [Path(named).resolve()] if named else []


def import_own() -> None:
    """Have modules beside specs of one's own found by import, behind all others."""
    sys.path.extend(str(folder) for folder in own_folders() if str(folder) not in sys.path)


def _folders() -> list[Path]:
    """Return the folders that hold specs."""
    return [*own_folders(), SPECS]


def _build(name: str, table: dict[str, Any], digest: str) -> Spec:
    """Check a parsed file key by key and make it a Spec."""
    check_keys(name, table, _KEYS)
    missing = _REQUIRED - set(table)
    if missing:
        raise SpecError(f"{name}: {', '.join(sorted(missing))} missing")
    factors = {key: _factor(name, key, value) for key, value in table["factors"].items()}
    workload = workload_of(name, table["workload"])
    parameters = [factor.parameter for factor in factors.values()] + list(workload["smoke"]) + list(RUN_PARAMETERS)
    twice = {item for item in parameters if parameters.count(item) > 1}
    if twice:
        raise SpecError(f"{name}: {', '.join(sorted(twice))} named twice")
    check_keys(f"{name}: repeats", table["repeats"], set(PROFILES), complete=True)
    if ":" not in table["trial"]:
        raise SpecError(f"{name}: trial is {table['trial']!r}", hint="write module:function")
    return Spec(
        name=name,
        question=table["question"].strip(),
        expectation=table.get("expectation", "").strip(),
        notebook=table.get("notebook", ""),
        trial=table["trial"],
        analysis=table.get("analysis", ""),
        timeout_s=float(table.get("timeout_s", 120.0)),
        repeats=table["repeats"],
        factors=factors,
        workload=workload,
        metrics=table.get("metrics", {}),
        figures=table["figures"],
        references=table.get("references", {}),
        not_applicable=tuple(_rule(name, factors, rule) for rule in table.get("not_applicable", [])),
        skip=tuple(_rule(name, factors, rule) for rule in table.get("skip", [])),
        digest=digest,
    )


def _factor(spec: str, name: str, table: dict[str, Any]) -> Factor:
    """Check one factor: levels for every profile, all of one kind, none twice."""
    where = f"{spec}: factors.{name}"
    check_keys(where, table, {"parameter", "unit", "text", "choices", *PROFILES})
    for profile in PROFILES:
        levels = table.get(profile)
        if not isinstance(levels, list) or not levels:
            raise SpecError(f"{where} has no levels for {profile}")
        for level in levels:
            values.match_kind(where, values.check(where, level), levels[0])
        if len(set(levels)) < len(levels):
            raise SpecError(f"{where} has a level twice in {profile}")
    levels_of = {profile: table[profile] for profile in PROFILES}
    parameter, choices = table.get("parameter", name + "s"), tuple(table.get("choices", ()))
    found = Factor(name, parameter, table.get("unit", ""), table.get("text", ""), levels_of, choices)
    for level in itertools.chain(*levels_of.values()):
        found.check(level)
    return found


def workload_of(spec: str, table: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the workload of each profile: the common keys, then the profile's own."""
    common = {key: value for key, value in table.items() if key not in PROFILES}
    for key, value in common.items():
        if isinstance(value, dict):
            raise SpecError(f"{spec}: there is no profile {key}", hint=nearest(key, PROFILES))
    merged = {}
    for profile in PROFILES:
        own = table.get(profile, {})
        check_keys(f"{spec}: workload.{profile}", own, set(common))
        merged[profile] = {
            key: values.match_kind(f"{spec}: {key}", own.get(key, value), value) for key, value in common.items()
        }
    return merged


def _rule(spec: str, factors: Mapping[str, Factor], table: dict[str, Any]) -> Rule:
    """Check a rule: it names known factors, and says why."""
    check_keys(f"{spec}: rule", table, {"when", "reason"}, complete=True)
    check_keys(f"{spec}: rule", table["when"], set(factors))
    when = {key: value if isinstance(value, list) else [value] for key, value in table["when"].items()}
    return Rule(when, table["reason"])


def check_keys(where: str, table: Mapping[str, Any], keys: set[str], *, complete: bool = False) -> None:
    """Refuse unknown keys, and missing ones where all are needed."""
    for key in table:
        if key not in keys:
            raise SpecError(f"{where}: unknown key {key}", hint=nearest(key, keys))
    if complete and keys - set(table):
        raise SpecError(f"{where}: {', '.join(sorted(keys - set(table)))} missing")
