"""Store a landed version for the tests of this folder: its code (``previous.tar.xz``), its protos (``previous.binpb``).

    .venv/bin/python tests/upgrade/make_previous.py COMMIT

The code is the wheel of that commit, unpacked, without the type stubs. It runs with the libraries of this interpreter.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
CODE, PROTOS = HERE / "previous.tar.xz", HERE / "previous.binpb"
BIN = Path(sys.executable).parent


def store_code(source: Path) -> None:
    """Build the wheel of a source folder, and pack what is in it."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--wheel-dir", folder, str(source)], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as built, tarfile.open(CODE, "w:xz", preset=9) as packed:
            for name in sorted(name for name in built.namelist() if not name.endswith(".pyi")):
                member, content = tarfile.TarInfo(name), built.read(name)
                member.size, member.mode = len(content), 0o644
                packed.addfile(member, io.BytesIO(content))


def main() -> None:
    """Store the version of the commit that the argument names."""
    (commit,) = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        archived = subprocess.run(["git", "archive", commit], check=True, capture_output=True, cwd=HERE.parents[1])
        with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as files:
            files.extractall(folder, filter="data")
        store_code(Path(folder))
        subprocess.run([BIN / "buf", "build", folder, "-o", PROTOS], check=True)


if __name__ == "__main__":
    main()
