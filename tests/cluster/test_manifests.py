"""Files for clusters are what their readers expect: KubeRay's schemas, Ray's launcher, bash; and one version of Ray."""

import json
import lzma
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config

from reid_ray.cli.jobs import JOBS
from reid_ray.config import load_config
from reid_ray.config.loading import relative_paths
from reid_ray.runtime.resources import check_fits, plan

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERAY = CLUSTER / "kuberay"
SCHEMAS = Path(__file__).with_name("kuberay-v1.7.0.json.xz")
"""Of KubeRay, see vendor_crds.py."""


def documents(path):
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def ray_objects():
    """All RayClusters and RayJobs, by file."""
    return {path: objects[0] for path in sorted(KUBERAY.glob("ray*.yaml")) if (objects := documents(path))}


def cluster_spec(thing):
    return thing["spec"] if thing["kind"] == "RayCluster" else thing["spec"]["rayClusterSpec"]


def groups(spec):
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def containers(spec):
    return [container for group in groups(spec) for container in group["template"]["spec"]["containers"]]


def closed(schema):
    """A schema in which a key that it does not name is an error, as `kubectl --validate=strict` has it."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items() if key != "properties"}
    if "properties" in schema:
        result["properties"] = {name: closed(inner) for name, inner in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
    return result


@pytest.fixture(scope="module")
def kuberay():
    """`kuberay(object)`: messages of what KubeRay's schema has against it."""
    schemas = json.loads(lzma.decompress(SCHEMAS.read_bytes()))
    checks = {}
    for kind, schema in schemas.items():
        schema["properties"]["metadata"] = {"type": "object", "properties": {"name": {"type": "string"}}}
        checks[kind] = jsonschema.Draft202012Validator(closed(schema))
    return lambda thing: [f"{error.json_path}: {error.message}" for error in checks[thing["kind"]].iter_errors(thing)]


@pytest.mark.parametrize("path", ray_objects(), ids=lambda path: path.name)
def test_kuberay_takes_it(path, kuberay):
    thing = ray_objects()[path]
    assert thing["apiVersion"] == "ray.io/v1"
    assert not kuberay(thing)


def spoil_an_unknown_key(spec):
    spec["enableInTreeAutoscalling"] = True


def spoil_a_type(spec):
    spec["workerGroupSpecs"][0]["replicas"] = "2"


def spoil_a_container(spec):
    spec["headGroupSpec"]["template"]["spec"]["containers"][0]["imagePullPolicies"] = "Always"


def spoil_a_required_key(spec):
    del spec["workerGroupSpecs"][0]["template"]


@pytest.mark.parametrize("spoil", [spoil_an_unknown_key, spoil_a_type, spoil_a_container, spoil_a_required_key])
@pytest.mark.parametrize("path", ray_objects(), ids=lambda path: path.name)
def test_kuberay_s_schema_finds_mistakes(path, spoil, kuberay):
    thing = ray_objects()[path]
    spoil(cluster_spec(thing))
    assert len(kuberay(thing)) == 1


def merged(base, patch):
    """A JSON merge patch, which is how Kustomize patches what it has no schema of."""
    if not isinstance(patch, dict):
        return patch
    return {**base, **{key: merged(base.get(key, {}), value) for key, value in patch.items()}}


def test_the_option_of_redis_fits_the_cluster(kuberay):
    (patch,) = documents(KUBERAY / "gcs-redis" / "patch.yaml")
    thing = merged(ray_objects()[KUBERAY / "raycluster.yaml"], patch)
    assert not kuberay(thing)
    options = thing["spec"]["gcsFaultToleranceOptions"]
    (component,) = documents(KUBERAY / "gcs-redis" / "kustomization.yaml")
    service, server = documents(KUBERAY / "gcs-redis" / "redis.yaml")
    assert options["redisAddress"] == f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    secret = component["secretGenerator"][0]
    key = {"name": secret["name"], "key": secret["literals"][0].partition("=")[0]}
    assert options["redisPassword"]["valueFrom"]["secretKeyRef"] == key
    (redis,) = server["spec"]["template"]["spec"]["containers"]
    assert redis["env"][0]["valueFrom"]["secretKeyRef"] == key
    assert component["kind"] == "Component"


@pytest.mark.parametrize("path", ray_objects(), ids=lambda path: path.name)
def test_every_pod_shares_storage_and_has_memory_for_the_object_store(path):
    spec = cluster_spec(ray_objects()[path])
    assert spec["authOptions"]["mode"] == "token"
    for group in groups(spec):
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]}
        claim = mounts["/shared"]["persistentVolumeClaim"]["claimName"]
        assert claim == documents(KUBERAY / "storage.yaml")[0]["metadata"]["name"]
        memory = pod["containers"][0]["resources"]["limits"]["memory"]
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        # Ray gives its object store 30 % of the memory, and /dev/shm counts against the container's limit.
        assert 0.24 < gigabytes(mounts["/dev/shm"]["emptyDir"]["sizeLimit"]) / gigabytes(memory) < 0.35


def gigabytes(text):
    return int(text.removesuffix("Gi"))


@pytest.mark.parametrize("path", sorted(KUBERAY.glob("rayjob-*.yaml")), ids=lambda path: path.name)
def test_a_job_s_cluster_goes_with_it_and_a_lost_one_is_tried_again(path):
    spec = ray_objects()[path]["spec"]
    assert spec["shutdownAfterJobFinishes"]
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["backoffLimit"] > 0
    assert spec["activeDeadlineSeconds"] > 0
    program, module, name, *arguments = shlex.split(spec["entrypoint"])
    assert (program, module) == ("python", "-m")
    package, _, job = name.rpartition(".")
    assert package == "reid_ray.jobs"
    assert job in JOBS
    assert (ROOT / "jobs" / f"{job}.py").exists()
    assert arguments


@pytest.mark.parametrize("path", sorted(KUBERAY.glob("rayjob-*.yaml")), ids=lambda path: path.name)
def test_a_job_s_cluster_can_hold_its_run(path):
    thing = ray_objects()[path]
    recipe, *others = shlex.split(thing["spec"]["entrypoint"])[3:]
    config = load_config(recipe, [word for word in others if re.match(r"[\w.]+=", word)])
    assert not relative_paths(config)
    cpus = gpus = 0
    for group in cluster_spec(thing)["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        cpus += group["minReplicas"] * int(limits["cpu"])
        gpus += group["minReplicas"] * int(limits.get("nvidia.com/gpu", 0))
    needed = plan(config, n_gpus=gpus, n_cores=None)
    assert needed.gpus > 0
    check_fits(needed, {"CPU": cpus, "GPU": gpus})


def test_kustomize_knows_the_files_and_the_image():
    (kustomization,) = documents(KUBERAY / "kustomization.yaml")
    text = (KUBERAY / "kustomization.yaml").read_text(encoding="utf-8")
    listed = re.findall(r"^ *(?:# )?- ([\w-]+\.yaml)", text, re.MULTILINE)
    files = {path.name for path in KUBERAY.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(listed) == files
    assert set(kustomization["resources"]) <= files
    (image,) = kustomization["images"]
    for thing in ray_objects().values():
        for container in containers(cluster_spec(thing)):
            assert container["image"] == f"{image['name']}:{image['newTag']}"


LAUNCHERS = sorted((CLUSTER / "launcher").glob("*.yaml"))


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_the_cluster_launcher_takes_it(path):
    validate_config(prepare_config(yaml.safe_load(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_the_cluster_launcher_finds_mistakes(path):
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["idle_timeout_minute"] = 5
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        validate_config(prepare_config(config))


@pytest.mark.parametrize("path", sorted((CLUSTER / "slurm").glob("*.sbatch")), ids=lambda path: path.name)
def test_the_shell_can_read_it(path):
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!/bin/bash\n")
    assert "export RAY_AUTH_MODE=token" in text


def test_symmetric_run_is_for_whole_nodes_only():
    """It ends with `ray stop`, which ends every Ray of the user on a node."""
    for path in (CLUSTER / "slurm").glob("*.sbatch"):
        commands = re.sub(r"^#(?!SBATCH).*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert ("symmetric-run" in commands) == ("#SBATCH --exclusive" in commands)
        assert "ray stop" not in commands


def test_there_is_one_version_of_ray():
    """The one that is installed, which pyproject.toml asks for, in every file that names one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (pinned,) = [need for need in project["dependencies"] if need.startswith("ray[")]
    named = {}
    for path, thing in ray_objects().items():
        spec = cluster_spec(thing)
        named[path.name] = {spec["rayVersion"], *(tag_version(each["image"]) for each in containers(spec))}
    named["kustomization"] = {documents(KUBERAY / "kustomization.yaml")[0]["images"][0]["newTag"].partition("-")[0]}
    for path in LAUNCHERS:
        text = path.read_text(encoding="utf-8")
        named[path.name] = set(re.findall(r"\d+\.\d+\.\d+(?=-gpu|')", text))
    for path in (CLUSTER / "docker").glob("Dockerfile.*"):
        text = path.read_text(encoding="utf-8")
        assert "FROM rayproject/ray:${RAY_VERSION}-py311" in text
        kind = path.suffix.removeprefix(".")
        named[path.name] = set(re.findall(rf"RAY_VERSION=(\S+)|reid-ray:(\S+)-{kind}", text))
        named[path.name] = {version for pair in named[path.name] for version in pair if version}
    assert len(named) == 9
    assert set(map(frozenset, named.values())) == {frozenset({ray.__version__})}, named
    assert ray.__version__ in SpecifierSet(pinned.partition("]")[2])


def tag_version(image):
    return image.partition(":")[2].partition("-")[0]
