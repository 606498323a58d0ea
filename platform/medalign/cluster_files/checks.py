"""Checks of cluster files before they are written: Ray's own schema, KubeRay's fields, nothing floating or secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from medalign.cluster_files.kuberay_fields import KINDS
from medalign.errors import UserError

SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN|\bBearer\s|(secret|token|password|api)[_-]?(access_)?key?\s*[=:]\s*\S{8,}", re.I
)


def check_autoscaler(document: dict[str, Any]) -> None:
    """Check a document of `ray up` as Ray does before it starts anything.

    Raises:
        UserError: what Ray refuses.
    """
    import copy

    from jsonschema import ValidationError as SchemaError
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(copy.deepcopy(document)))
    except SchemaError as error:
        raise UserError(f"cluster.yaml: {'.'.join(map(str, error.path))}: {error.message}") from error
    except (ValueError, AssertionError, KeyError) as error:
        raise UserError(f"cluster.yaml: {error}") from error
    _check_texts(document, "cluster.yaml")


def check_objects(documents: list[dict[str, Any]], name: str) -> None:
    """Check Kubernetes objects: KubeRay's fields by our models, and what no object may hold.

    Raises:
        UserError: the first field that is wrong.
    """
    for document in documents:
        model = KINDS.get(document["kind"])
        try:
            if model:
                model.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise UserError(f"{name}: {document['kind']}.{place}: {first['msg']}") from error
        _check_texts(document, name)


def _check_texts(document: Any, name: str) -> None:
    for path, text in _texts(document):
        if re.search(r"(:latest\b|:nightly\b)", text):
            raise UserError(f"{name}: {path}: {text!r} is not pinned; give a version or a digest.")
        if SECRET.search(text):
            raise UserError(f"{name}: {path}: looks like a secret; give it by a file or a Kubernetes secret.")


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{path}[{number}]")
    elif isinstance(value, str):
        yield path, value
