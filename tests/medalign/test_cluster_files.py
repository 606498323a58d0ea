"""Cluster files: Ray, KubeRay, Kubernetes and EC2 take what is written, over many settings; and the examples."""

import itertools
import json
import re
from importlib import metadata
from pathlib import Path

import botocore.session
import botocore.validate
import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from medalign import cluster
from medalign.cluster_files import ClusterSettings, checks, machines, render, write
from medalign.cluster_files import settings as settings_module
from medalign.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "ghcr.io/your-lab/medalign:0.1.0"
KUBERNETES = "1.33"
RUN = ("run.uri=s3://your-bucket/runs/first", "data.corpus=s3://your-bucket/corpus")
EXAMPLES = {
    "aws": {"provider": "aws", "gpus": 8, "gpu_type": "L4", "spot": True, "region": "us-west-2"}
    | {"machine_image": "ami-00000000000000000", "role": "medalign-nodes"},
    "gcp": {"provider": "gcp", "gpus": 8, "gpu_type": "L4", "spot": True, "region": "us-central1"}
    | {"project": "your-project", "machine_image": "projects/your-project/global/images/medalign-node-1"},
    "kuberay": {"provider": "kuberay", "gpus": 8, "gpu_type": "L4", "spot": True, "namespace": "medalign"}
    | {"role": "medalign", "recipe": "lvm_med/resnet50", "overrides": RUN},
}
VIRTUAL = [
    {"provider": provider, "gpu_type": kind, "gpus": gpus, "spot": spot}
    for provider, rented in machines.RENTED.items()
    for (kind, found), spot in zip(rented.items(), itertools.cycle((True, False)), strict=False)
    for gpus in {found[0].gpus, 16}
]
PLACES = {
    "aws": {"region": "eu-central-1", "machine_image": "ami-0123456789abcdef0"},
    "gcp": {"region": "europe-west4", "project": "a-project-1", "machine_image": "projects/p/global/images/i"},
}
EXTRAS = [{}, {"role": "nodes"}, {"cpu_nodes": 0}, {"zone": "z-1", "idle_minutes": 30, "disk_gb": 1000}]
KUBERAY = [
    {"gpus": 1},
    {"gpus": 8, "spot": True},
    {"gpus": 16, "gpus_per_node": 8, "gpu_type": "H100"},
    {"gpus": 64, "gpus_per_node": 8, "gpu_type": "H200", "spot": True, "memory_gib_per_gpu": 200, "cpus_per_gpu": 24},
    {"gpus": 2, "gpu_type": "A10G", "spot": True},  # which GKE does not rent
    {"gpus": 4, "gpus_per_node": 4, "cpu_nodes": 0},
    {"gpus": 4, "gpu_type": "A100-80", "object_store_share": 0.5, "grace_seconds": 30},
    {"gpus": 4, "gpu_type": "A100-40", "role": "trainer", "namespace": "ml-team"},
    {"gpus": 4, "gpu_type": "T4", "credentials_secret": "bucket-keys", "idle_minutes": 60},
    {"gpus": 8, "gpu_type": "L40S", "name": "a-name-that-is-as-long-as-names-may-be-4"},
    {"gpus": 2, "recipe": "lvm_med/vit_b16", "overrides": (*RUN, "train.workers=2")},
    {"gpus": 8, "spot": True, "recipe": "mine.yaml", "overrides": (*RUN, "data.views={}"), "deadline_hours": 1},
]


def settings(**keys) -> ClusterSettings:
    """Return settings with an image, and a place where one is needed."""
    return ClusterSettings(**{"image": IMAGE, **PLACES.get(keys["provider"], {}), **keys})


def documents(wanted: ClusterSettings) -> list[dict]:
    """Return every document that is written for some settings, read back."""
    return [document for text in render(wanted).values() for document in yaml.safe_load_all(text)]


def templates(found: list[dict]) -> list[dict]:
    """Return every pod template in some documents."""
    pods = []
    for document in found:
        spec = document["spec"].get("rayClusterSpec", document["spec"])
        pods += [group["template"] for group in (spec.get("headGroupSpec"), *spec.get("workerGroupSpecs", ())) if group]
        pods += [document["spec"]["submitterPodTemplate"]] if "submitterPodTemplate" in document["spec"] else []
    return pods


@pytest.mark.parametrize(
    "keys", [{**one, **more} for one, more in zip(VIRTUAL, itertools.cycle(EXTRAS), strict=False)], ids=str
)
def test_ray_takes_the_file_of_virtual_machines(keys):
    wanted = settings(**keys)
    (document,) = documents(wanted)
    validate_config(prepare_config(document))
    types = document["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert "spot" not in str(types["head"]).lower()
    gpus = {name: kind["max_workers"] * kind["resources"].get("GPU", 0) for name, kind in types.items()}
    assert gpus["gpu-on-demand"] == wanted.gpus
    assert gpus.get("gpu-spot", 0) == (wanted.gpus if wanted.spot else 0)
    assert ("data" in types) == bool(wanted.cpu_nodes)
    if wanted.spot:  # the same resources, else Ray would not take the priority as the tie's end
        spot, demand = types["gpu-spot"], types["gpu-on-demand"]
        assert spot["resources"] == demand["resources"]
        assert spot["priority"] > demand["priority"]
        assert str(spot["node_config"]).lower().count("spot") > str(demand["node_config"]).lower().count("spot")
    assert (
        document["max_workers"]
        == wanted.cpu_nodes + gpus["gpu-on-demand"] // types["gpu-on-demand"]["resources"]["GPU"]
    )


@pytest.mark.parametrize("keys", [keys for keys in VIRTUAL if keys["provider"] == "aws"], ids=str)
def test_ec2_takes_every_node_of_aws(keys):
    session = botocore.session.get_session()
    shape = session.get_service_model("ec2").operation_model("RunInstances").input_shape
    (document,) = documents(settings(**keys, role="nodes"))
    for kind in document["available_node_types"].values():
        call = {**kind["node_config"], "MinCount": 1, "MaxCount": 1}
        report = botocore.validate.ParamValidator().validate(call, shape)
        assert not report.has_errors(), report.generate_report()
        assert set(call) <= set(shape.members)


@pytest.mark.parametrize("keys", KUBERAY, ids=str)
def test_kubernetes_and_ray_take_the_objects_of_kuberay(keys):
    wanted = settings(provider="kuberay", **keys)
    found = documents(wanted)
    kinds = [document["kind"] for document in found]
    assert kinds == [
        "RayCluster",
        *(["RayJob"] if wanted.recipe else []),
        "NetworkPolicy",
        *["PodDisruptionBudget"] * 2,
    ]
    for template in templates(found):
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = {"name": "any", **template["metadata"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    for policy in found[-3:]:
        kubernetes_validate.validate(policy, KUBERNETES, strict=True)
    read = _derive_autoscaling_config_from_ray_cr(found[0])  # Ray's autoscaler reads the object so, and checks it
    groups = {name: kind for name, kind in read["available_node_types"].items() if name.startswith("gpu")}
    assert {name: kind["resources"]["GPU"] * kind["max_workers"] for name, kind in groups.items()} == {
        name: wanted.gpus for name in (["gpu-spot"] if wanted.spot else []) + ["gpu-on-demand"]
    }
    assert read["available_node_types"]["headgroup"]["resources"]["CPU"] == 0
    assert read["idle_timeout_minutes"] == wanted.idle_minutes


@pytest.mark.parametrize("keys", KUBERAY, ids=str)
def test_pods_are_guarded_sized_and_given_time(keys):
    wanted = settings(provider="kuberay", **keys)
    cluster, *rest = documents(wanted)
    spec = cluster["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["rayVersion"] == metadata.version("ray")
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        (shm,) = [volume for volume in pod["volumes"] if volume["name"] == "shm"]
        size = int(shm["emptyDir"]["sizeLimit"].removesuffix("Mi")) * 1024**2
        memory = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 1024**3
        assert int(group["rayStartParams"]["object-store-memory"]) == size
        assert size == pytest.approx(wanted.object_store_share * memory, rel=1e-3)
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert pod["restartPolicy"] == "Never"
        assert pod["terminationGracePeriodSeconds"] == wanted.grace_seconds
    for group in spec["workerGroupSpecs"]:
        command = group["template"]["spec"]["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {})
        if group["groupName"].startswith("gpu"):
            assert int(command["command"][-1]) < wanted.grace_seconds  # the checkpoint is whole before the kill
    head = spec["headGroupSpec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = head["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert {expression["operator"] for expression in term["matchExpressions"]} == {"NotIn"}  # never on spot
    policy = rest[-3]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert all("from" in rule for rule in policy["spec"]["ingress"])
    for template in templates([cluster, *rest[:-3]]):
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


@pytest.mark.parametrize("provider", EXAMPLES)
def test_the_examples_are_what_the_generator_writes(provider, tmp_path):
    """After a change: python -c 'from test_cluster_files import write_examples as w; w()' in tests/medalign."""
    written = write(settings(**EXAMPLES[provider]), tmp_path)
    kept = ROOT / "cluster" / provider
    assert sorted(path.name for path in written) == sorted(path.name for path in kept.iterdir())
    for path in written:
        assert path.read_text() == (kept / path.name).read_text(), f"cluster/{provider}/{path.name} is not up to date"


def write_examples() -> None:
    """Write the examples anew."""
    for provider, keys in EXAMPLES.items():
        write(settings(**keys), ROOT / "cluster" / provider)


@pytest.mark.parametrize("path", sorted((ROOT / "cluster").rglob("*.yaml")), ids=lambda path: path.name)
def test_no_shipped_file_floats_or_holds_a_secret(path):
    text = path.read_text()
    assert not re.search(r":(latest|nightly)\b", text)
    assert not checks.SECRET.search(text)


def test_what_is_not_pinned_is_refused_and_so_is_what_cannot_be_rented():
    for keys, said in (
        ({"image": "rayproject/ray:latest"}, "image must be pinned"),
        ({"image": "rayproject/ray"}, "image must be pinned"),
        ({"provider": "aws", "gpus": 6, "gpu_type": "H100"}, "gpus must be a multiple of 8 for H100 on aws, got 6"),
        ({"provider": "gcp", "gpu_type": "A10G"}, "gpu_type must be one of T4, L4"),
        ({"provider": "aws", "machine_image": ""}, "machine_image must be given for aws"),
        ({"gpus": 3, "gpus_per_node": 2}, "gpus must be a multiple of gpus_per_node = 2, got 3"),
        ({"recipe": "lvm_med/resnet50", "overrides": ("run.uri=s3://b/r",)}, "recipe needs data.corpus=URI beside it"),
        ({"name": "No_Name"}, "name must be lower case"),
        ({"grace_seconds": 10}, "grace_seconds must be >= 30"),
        ({"gpus": 0}, "gpus must be >= 1"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            settings(**{"provider": "kuberay", "gpus": 1, **keys})


@pytest.mark.parametrize("keys", [VIRTUAL[1], VIRTUAL[-1], *({"provider": "kuberay", **keys} for keys in KUBERAY[:4])])
def test_the_head_knows_what_the_cluster_may_grow_to(keys):
    wanted = settings(**keys)
    text = "".join(render(wanted).values())
    found = {tuple(json.loads(said).items()) for said in re.findall(r"MEDALIGN_CLUSTER_MOST.*?(\{.*?\})", text, re.S)}
    ((cpus, gpus),) = found
    assert gpus == ("GPU", wanted.gpus)
    assert cpus[1] > wanted.gpus
    assert settings_module.MOST == cluster.MOST


def test_a_digest_pins_an_image():
    image = "registry.example:5000/medalign@sha256:" + "0" * 64
    assert image in render(settings(provider="kuberay", gpus=1, image=image))["raycluster.yaml"]


def test_fields_that_kuberay_does_not_know_are_refused_by_name():
    (cluster, *_) = documents(settings(provider="kuberay", gpus=1))
    cluster["spec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(UserError, match=r"here.yaml: RayCluster.spec.workerGroupSpecs.0.maxReplica: Extra inputs"):
        checks.check_objects([cluster], "here.yaml")


def test_a_field_that_ray_does_not_know_and_a_secret_are_refused_by_name():
    (document,) = documents(settings(provider="aws", gpus=1))
    with pytest.raises(UserError, match=r"cluster.yaml: .*max_worker"):
        checks.check_autoscaler({**document, "max_worker": 3})
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**document, "max_worker": 3}))
    leaky = {**document, "setup_commands": ["export AWS_SECRET_ACCESS_KEY=abcdefghijklmnop"]}
    with pytest.raises(UserError, match=r"setup_commands\[0\]: looks like a secret"):
        checks.check_autoscaler(leaky)


@pytest.mark.slow
def test_ray_starts_every_node_of_aws_in_a_simulated_account(tmp_path, monkeypatch):
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    monkeypatch.setenv("HOME", str(tmp_path))  # a key pair is written there
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-west-2"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with mock_aws():
        ec2 = boto3.client("ec2")
        boto3.client("iam").create_instance_profile(InstanceProfileName="medalign-nodes")
        image = ec2.describe_images()["Images"][0]["ImageId"]
        (document,) = documents(settings(**{**EXAMPLES["aws"], "machine_image": image}))
        config = bootstrap_aws(prepare_config(document))
        read = AWSNodeProvider.fillout_available_node_types_resources(config)["available_node_types"]
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        for name, kind in read.items():
            role = "head" if name == "head" else "worker"
            tags = {"node-type": role, "user-node-type": name, "node-name": name, "launch-config": "h"}
            provider.create_node(kind["node_config"], {f"ray-{key}": value for key, value in tags.items()}, 1)
        started = {
            {tag["Key"]: tag["Value"] for tag in instance["Tags"]}["ray-user-node-type"]: instance
            for reservation in ec2.describe_instances()["Reservations"]
            for instance in reservation["Instances"]
        }
        assert started.keys() == document["available_node_types"].keys()
        lives = {name: instance.get("InstanceLifecycle") for name, instance in started.items()}
        assert lives == {"head": None, "data": None, "gpu-spot": "spot", "gpu-on-demand": None}
        for rented in (*machines.AWS.values(), (machines.HEADS["aws"], machines.CPU_POOLS["aws"])):
            for machine in rented:  # the table is EC2's own
                (found,) = ec2.describe_instance_types(InstanceTypes=[machine.name])["InstanceTypes"]
                assert found["VCpuInfo"]["DefaultVCpus"] == machine.cpus, machine
                assert found["MemoryInfo"]["SizeInMiB"] == machine.memory_gib * 1024, machine
                assert sum(gpu["Count"] for gpu in found.get("GpuInfo", {}).get("Gpus", ())) == machine.gpus, machine
