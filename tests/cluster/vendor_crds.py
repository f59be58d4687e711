"""Write the schemas next to this file from a checkout of KubeRay: `python tests/cluster/vendor_crds.py KUBERAY TAG`.

They are the `v1` schemas of RayCluster and RayJob in `helm-chart/kuberay-operator/crds` of
https://github.com/ray-project/kuberay (Apache License 2.0, the licence of this repository), as JSON, without their
descriptions and validation rules in CEL.
"""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

FOLDER = "helm-chart/kuberay-operator/crds"
FILES = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}


def trimmed(schema: Any) -> Any:
    """Without what says nothing about shape; a property may be called `description`, so its name is not enough."""
    if isinstance(schema, list):
        return [trimmed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key == "properties":
            kept[key] = {name: trimmed(inner) for name, inner in value.items()}
        elif key not in ("description", "x-kubernetes-validations"):
            kept[key] = trimmed(value)
    return kept


def main() -> None:
    checkout, tag = Path(sys.argv[1]), sys.argv[2]
    schemas = {}
    for kind, name in FILES.items():
        shown = subprocess.run(
            ["git", "show", f"{tag}:{FOLDER}/{name}"], cwd=checkout, check=True, capture_output=True, text=True
        )
        versions = yaml.load(shown.stdout, yaml.CSafeLoader)["spec"]["versions"]
        (v1,) = (version for version in versions if version["name"] == "v1")
        schemas[kind] = trimmed(v1["schema"]["openAPIV3Schema"])
    out = Path(__file__).with_name(f"kuberay-{tag}.json.xz")
    out.write_bytes(lzma.compress(json.dumps(schemas, sort_keys=True).encode(), preset=9))


if __name__ == "__main__":
    main()
