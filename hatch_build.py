"""Generate the Python stubs from ``protos/`` on install and on every wheel build."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from grpc_tools import protoc
from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
PROTOS = ROOT / "protos"
OUTPUT = ROOT / "clients" / "python"


def generate(protos: Path = PROTOS, output: Path = OUTPUT) -> None:
    """Run protoc over every proto file.

    Raises:
        RuntimeError: protoc refused a file (its own message went to standard error).
    """
    files = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    well_known = str(resources.files("grpc_tools") / "_proto")
    outputs = [f"--{kind}_out={output}" for kind in ("python", "grpc_python")]
    if shutil.which("protoc-gen-mypy"):
        outputs += [f"--{kind}_out=quiet:{output}" for kind in ("mypy", "mypy_grpc")]
    status = protoc.main(["protoc", f"-I{protos}", f"-I{well_known}", *outputs, *files])
    if status != 0:
        raise RuntimeError(f"protoc ended with status {status} over {len(files)} files in {protos}")


class StubsHook(BuildHookInterface[BuilderConfig]):
    """Build hook that hatchling calls before it collects the files."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the stubs into ``clients/python`` (arguments are hatchling's)."""
        del version, build_data
        generate()


if __name__ == "__main__":
    generate()
