"""Rendering: settings become files, each checked before any is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from medalign.cluster_files import checks, kuberay
from medalign.cluster_files.settings import ClusterSettings
from medalign.cluster_files.virtual_machines import autoscaler

VIRTUAL = """\
Autoscaling Ray cluster on {provider}: a head without work, CPU nodes for data, {gpus} x {gpu_type}{spot}.
Written by `medalign cluster render`; edit the settings, not this file.
  ray get-auth-token --generate    once: the token that the nodes and their clients share
  ray up {file}
  ray dashboard {file}             forwards port 8265, while
  medalign submit RECIPE --address http://127.0.0.1:8265 run.uri=URI data.corpus=URI
"""
KUBERNETES = """\
{what}: {gpus} x {gpu_type}{spot}. For KubeRay 1.7 and later.
Written by `medalign cluster render`; edit the settings, not this file.
  kubectl apply -f {file}
"""


def render(settings: ClusterSettings) -> dict[str, str]:
    """Return the text of each file by its name.

    Raises:
        UserError: a document that Ray or KubeRay would refuse.
    """
    about = {
        "provider": {"aws": "AWS", "gcp": "Google Cloud"}.get(settings.provider, ""),
        "gpus": settings.gpus,
        "gpu_type": settings.gpu_type,
        "spot": " on spot, on demand where there is none" if settings.spot else " on demand",
    }
    if settings.provider != "kuberay":
        document = autoscaler(settings)
        checks.check_autoscaler(document)
        return {"cluster.yaml": _comment(VIRTUAL.format(file="cluster.yaml", **about)) + _dump([document])}
    policies = [kuberay.network_policy(settings), *kuberay.disruption_budgets(settings)]
    files = {"raycluster.yaml": ("A Ray cluster that stays", [kuberay.ray_cluster(settings)])}
    if settings.recipe:
        files["rayjob.yaml"] = ("A run with a Ray cluster of its own", [kuberay.ray_job(settings)])
    files["policies.yaml"] = ("Network policy and disruption budgets of the Ray cluster", policies)
    for name, (_, documents) in files.items():
        checks.check_objects(documents, name)
    return {
        name: _comment(KUBERNETES.format(what=what, file=name, **about)) + _dump(documents)
        for name, (what, documents) in files.items()
    }


def write(settings: ClusterSettings, out: Path) -> list[Path]:
    """Write the files into a folder, which is made if missing, and return their paths.

    Raises:
        UserError: as `render`; nothing is written then.
    """
    texts = render(settings)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (out / name).write_text(text)
    return [out / name for name in texts]


class _Plain(yaml.SafeDumper):
    """Writes every value out where it stands, and long words on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)


def _dump(documents: list[dict[str, Any]]) -> str:
    return yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, width=120)


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in text.splitlines())
