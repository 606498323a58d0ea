"""The fields of KubeRay 1.7's objects that we write, as models that refuse any other: no schema of theirs is packaged.

After the API reference of ray.io/v1 (KubeRay 1.7.0), which names each field, its values and its least value.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Words = dict[str, str]


class Fields(BaseModel):
    """Strict: no other field, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Fields):
    """Of an object; a RayCluster's name ends up in names of services, which have at most 63 characters."""

    name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=47)]
    namespace: Name
    labels: Words


class Template(Fields):
    """A pod template; its spec is checked against Kubernetes' own schema in the tests."""

    metadata: dict[str, Any]
    spec: dict[str, Any]


class AuthOptions(Fields):
    """Who may speak to the cluster."""

    mode: Literal["disabled", "token"]
    secretName: str | None = None  # noqa: N815 - KubeRay's own name, as those below


class AutoscalerOptions(Fields):
    """Of the autoscaler beside the head."""

    version: Literal["v1", "v2"]
    idleTimeoutSeconds: Count  # noqa: N815
    upscalingMode: Literal["Default", "Aggressive", "Conservative"]  # noqa: N815
    resources: dict[Literal["requests", "limits"], Words]


class HeadGroup(Fields):
    """The head."""

    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"]  # noqa: N815
    rayStartParams: Words  # noqa: N815
    template: Template


class WorkerGroup(Fields):
    """Workers of one kind."""

    groupName: Name  # noqa: N815
    replicas: Count
    minReplicas: Count  # noqa: N815
    maxReplicas: Count  # noqa: N815
    priority: int | None = None
    idleTimeoutSeconds: Count | None = None  # noqa: N815
    rayStartParams: Words  # noqa: N815
    template: Template

    @model_validator(mode="after")
    def _range(self) -> WorkerGroup:
        if not self.minReplicas <= self.replicas <= self.maxReplicas:
            raise ValueError(f"group {self.groupName}: minReplicas <= replicas <= maxReplicas must hold")
        return self


class ClusterSpec(Fields):
    """What a RayCluster, and the cluster of a RayJob, should be."""

    rayVersion: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]  # noqa: N815
    authOptions: AuthOptions  # noqa: N815
    enableInTreeAutoscaling: bool  # noqa: N815
    autoscalerOptions: AutoscalerOptions  # noqa: N815
    headGroupSpec: HeadGroup  # noqa: N815
    workerGroupSpecs: Annotated[list[WorkerGroup], Field(min_length=1)]  # noqa: N815

    @model_validator(mode="after")
    def _distinct(self) -> ClusterSpec:
        names = [group.groupName for group in self.workerGroupSpecs]
        if len(set(names)) < len(names):
            raise ValueError(f"groups must have different names, got {names}")
        if self.autoscalerOptions.version == "v1" and any(group.priority for group in self.workerGroupSpecs):
            raise ValueError("priority needs autoscaler v2")
        return self


class SubmitterConfig(Fields):
    """How often the submitting pod is started again."""

    backoffLimit: Count  # noqa: N815


class JobSpec(Fields):
    """What a RayJob should be."""

    entrypoint: Annotated[str, Field(min_length=1)]
    runtimeEnvYAML: str  # noqa: N815
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]  # noqa: N815
    submitterConfig: SubmitterConfig | None = None  # noqa: N815
    submitterPodTemplate: Template | None = None  # noqa: N815
    backoffLimit: Count  # noqa: N815
    activeDeadlineSeconds: Positive  # noqa: N815
    shutdownAfterJobFinishes: bool  # noqa: N815
    ttlSecondsAfterFinished: Count  # noqa: N815
    rayClusterSpec: ClusterSpec  # noqa: N815

    @model_validator(mode="after")
    def _whole(self) -> JobSpec:
        if self.ttlSecondsAfterFinished and not self.shutdownAfterJobFinishes:
            raise ValueError("ttlSecondsAfterFinished needs shutdownAfterJobFinishes")
        if self.submissionMode != "K8sJobMode" and self.submitterPodTemplate:
            raise ValueError("submitterPodTemplate needs submissionMode: K8sJobMode")
        return self


class RayCluster(Fields):
    """A cluster."""

    apiVersion: Literal["ray.io/v1"]  # noqa: N815
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: ClusterSpec


class RayJob(Fields):
    """A job with its cluster."""

    apiVersion: Literal["ray.io/v1"]  # noqa: N815
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: JobSpec


KINDS: dict[str, type[Fields]] = {"RayCluster": RayCluster, "RayJob": RayJob}
