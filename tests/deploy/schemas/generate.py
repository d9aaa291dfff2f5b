"""Write the vendors' schemas anew: ``python tests/deploy/schemas/generate.py``. It needs Go, and minutes at first.

The vendors make their definitions of custom resources from their Go types with ``controller-gen``. This runs the same
program on the same types, both in the versions of ``go.mod``, whose hashes are in ``go.sum``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER.parents[1]))

from support.manifests.schemas import CUSTOM, VENDORS  # noqa: E402 - after the path is set
from support.manifests.vendors import SUMS, schema_of, sums_of  # noqa: E402

PACKAGES = (
    "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1",
    "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1",
    "sigs.k8s.io/gateway-api/apis/v1",
)


def main() -> None:
    """Write the schemas of all kinds on the list, and their checksums."""
    with tempfile.TemporaryDirectory() as folder:
        for package in PACKAGES:
            output = f"output:crd:dir={folder}"
            command = ["go", "tool", "controller-gen", "crd", f"paths={package}", output]
            subprocess.run(command, cwd=FOLDER, check=True)
        made = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in Path(folder).glob("*.yaml")]
    definitions = {(each["spec"]["group"], each["spec"]["names"]["kind"]): each for each in made}
    for (api_version, kind), file in CUSTOM.items():
        group, _, version = api_version.partition("/")
        (VENDORS / file).write_text(_text(schema_of(definitions[group, kind], version)), encoding="utf-8")
    (VENDORS / SUMS).write_text(sums_of(VENDORS), encoding="utf-8")


def _text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    main()
