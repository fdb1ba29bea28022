"""Parameter values: what may travel into a notebook or a trial, and comes out as it went in.

A value is None, a bool, an int, a finite float, a str, or a list or dict of such. Everything else is
refused by the name of its parameter before anything starts: NaN is no JSON, a date arrives as text.
"""

from __future__ import annotations

import json
import math
from typing import Any

from experiments.errors import ParameterError


def check(name: str, value: Any) -> Any:
    """Return `value` if it travels unchanged, else raise.

    Raises
    ------
    ParameterError
        The value is not finite or of a type that JSON cannot carry; the error names the parameter.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise ParameterError(f"{name} is {value}", hint="give a finite number", name=name)
        return value
    if type(value) is list:
        return [check(f"{name}[{i}]", item) for i, item in enumerate(value)]
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                raise ParameterError(f"{name} has the key {key!r}, which is not text", name=name)
        return {key: check(f"{name}.{key}", item) for key, item in value.items()}
    raise ParameterError(
        f"{name} is a {type(value).__module__}.{type(value).__qualname__}",
        hint="give None, a bool, int, float, str, or lists and dicts of them",
        name=name,
    )


def parse(name: str, value: Any) -> Any:
    """Return `value`, read as JSON if it is text that looks like a list or an object.

    ``papermill -p load_factors '[0.5, 0.9]'`` hands lists over as text; this takes them back.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value, parse_constant=_refuse)
        except ValueError as error:
            raise ParameterError(
                f"{name} is {value!r}, which is no JSON: {error}", hint="write '[0.5, 0.9]'", name=name
            ) from None
    return check(name, value)


def parse_words(name: str, text: str) -> list[Any]:
    """Return the levels that ``--set name=a,b,c`` means: numbers, true, false, or text."""
    if text.lstrip().startswith("["):
        value = parse(name, text)
        return value if isinstance(value, list) else [value]
    return [parse_word(name, word.strip()) for word in text.split(",")]


def parse_word(name: str, word: str) -> Any:
    """Return one word as the number or truth value that it spells, else as text."""
    try:
        value = json.loads(word, parse_constant=_refuse)
    except ValueError:
        if word.lower() in ("nan", "inf", "-inf", "infinity"):
            raise ParameterError(f"{name} is {word}", hint="give a finite number", name=name) from None
        return word
    return check(name, value)


def match_kind(name: str, value: Any, example: Any) -> Any:
    """Return `value` as the kind that `example` is; an int may stand for a float, nothing else is bent."""
    if type(example) is float and type(value) is int and float(value) == value:
        return float(value)
    if type(value) is not type(example):
        raise ParameterError(
            f"{name} is {value!r}, a {type(value).__name__}", hint=f"give a {type(example).__name__}", name=name
        )
    return value


def dumps(value: Any, **options: Any) -> str:
    """Return strict JSON: no NaN, text as UTF-8."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, **options)


def _refuse(word: str) -> Any:
    """Refuse NaN and Infinity, which Python's JSON reader would take."""
    raise ValueError(f"{word} is not a number")
