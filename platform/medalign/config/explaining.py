"""A refused value -> what it must be and the way out, in a user's words."""

from __future__ import annotations

import dataclasses
import difflib
import math
from typing import Any

from pydantic import ValidationError

_KINDS = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "none_required": "null",
    "dict_type": "a section with keys",
    "list_type": "a list",
    "tuple_type": "a list",
}


def explain(error: ValidationError, value: Any, *, field: dataclasses.Field) -> str:
    """Return `must be ...; the way out.` for a plain value that pydantic refused in a field."""
    kinds = list(dict.fromkeys(_kind(one) for one in error.errors(include_url=False)))
    return f"must be {' or '.join(kinds)}; {_way_out(kinds, value, error, field)}."


def _kind(one: Any) -> str:
    if one["type"] == "literal_error":
        return f"one of {one['ctx']['expected'].replace(' or ', ', ')}"
    message = " ".join(str(one["msg"]).split()).removeprefix("Input should be ")
    return _KINDS.get(one["type"], message[0].lower() + message[1:])


def _way_out(kinds: list[str], value: Any, error: ValidationError, field: dataclasses.Field) -> str:
    wants_number = "a number" in kinds or "an integer" in kinds
    if value is None:
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        return "give a value" + (", or delete the key to have its default" if has_default else "")
    if "an integer" in kinds and isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    if wants_number and isinstance(value, str):
        return _write_number(value, allow_inf=field.metadata.get("allow_inf", False))
    if "true or false" in kinds:
        return "write true or false, without quotes"
    if "text" in kinds and isinstance(value, bool | int | float):
        return "put it in quotes"
    for one in error.errors(include_url=False):
        if one["type"] == "literal_error":
            options = [option.strip(" '") for option in one["ctx"]["expected"].replace(" or ", ", ").split(",")]
            near = difflib.get_close_matches(str(value), options, n=1)
            return f"perhaps {near[0]}" if near else "choose one of them"
    return "write a number" if wants_number else "change the value"


def _write_number(text: str, *, allow_inf: bool) -> str:
    try:
        number = float(text.replace("_", ""))
    except ValueError:
        return "write a number"
    if math.isfinite(number):
        return "write it without quotes and underscores"
    if allow_inf and math.isinf(number):
        return f"write {'-' if number < 0 else ''}.inf for infinity"
    return "write a finite number"
