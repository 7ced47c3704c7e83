"""What goes into the images of the real node: this machine's Python, its packages, this checkout.

The operator's image has what the Dockerfile's has, from this machine in the place of a registry:
the interpreter and the libraries it links to at their own paths, the dependencies of
pyproject.toml (with the extras that the Dockerfile names) and the project's packages under
/opt/motley. Entry point, user, environment and labels are read from the Dockerfile itself. The
engine's image has llama.cpp and e2e/engines on top of it. No shell and no pip are in any of them.
Test suites of packages are left out.
"""

from __future__ import annotations

import importlib.metadata
import json
import marshal
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
import warnings
from collections.abc import Iterable, Iterator
from importlib.util import MAGIC_NUMBER, cache_from_source, source_hash
from pathlib import Path

from e2e.cluster.images import Entry

ROOT = Path(__file__).parents[2]
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
PREFIX = "/opt/motley"
PACKAGES = f"{PREFIX}/lib/{VERSION}/site-packages"
BUSYBOX = Path("/usr/bin/busybox")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What a server does not need of the standard library; a slim image of Python has no `test` either.
_LEFT_OUT = frozenset(
    (
        "site-packages",
        "test",
        "idlelib",
        "tkinter",
        "turtledemo",
        "ensurepip",
        "lib2to3",
        "pydoc_data",
    )
)
_TESTS = frozenset(("tests", "test", "testing_data", "__pycache__"))


class Dockerfile:
    """The last stage of the project's Dockerfile, as far as an image's config says it."""

    def __init__(self, text: str) -> None:
        text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        first = max(number for number, line in enumerate(lines) if line.startswith("FROM "))
        self._lines = [tuple(line.split(None, 1)) for line in lines[first:]]
        self._arguments = {
            name: value
            for line in lines
            if line.startswith("ARG ") and "=" in line
            for name, _, value in [line.removeprefix("ARG ").partition("=")]
        }

    def _all(self, word: str) -> list[str]:
        return [rest for found, rest in self._lines if found == word]

    def words(self, word: str) -> tuple[str, ...]:
        """The JSON form of ENTRYPOINT or CMD."""
        return tuple(json.loads(self._all(word)[-1]))

    def pairs(self, word: str) -> dict[str, str]:
        """Names and values of ENV or LABEL, the build's arguments filled in."""
        known = {**self._arguments, "PATH": SYSTEM_PATH}
        found = {}
        for rest in self._all(word):
            for pair in shlex.split(rest):
                name, _, value = pair.partition("=")
                found[name] = re.sub(r"\$\{?(\w+)\}?", lambda m: known[m[1]], value)
        return found

    def text(self, word: str) -> str:
        """What the last instruction of this kind says."""
        return self._all(word)[-1]


def dockerfile() -> Dockerfile:
    """The project's own."""
    return Dockerfile((ROOT / "Dockerfile").read_text())


def extras() -> set[str]:
    """The extras that the Dockerfile installs."""
    found = re.findall(r"\.whl\)\[([\w,-]+)\]", (ROOT / "Dockerfile").read_text())
    return {extra for group in found for extra in group.split(",")}


def pause() -> list[Entry]:
    """Files of the pause image: a program that waits."""
    return [Entry("/bin/busybox", source=BUSYBOX, mode=0o755)]


def interpreter() -> list[Entry]:
    """Python and its standard library at their own paths, users, certificates, /tmp."""
    base, binary = Path(sys.base_prefix), Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    sources = [path for path in _files(library) if _is_of_library(path.relative_to(library))]
    found = [Entry(str(binary), source=binary, mode=0o755)]
    for path in sources:
        found += _with_code(path, str(path))
    shared = [binary, *(path for path in sources if path.suffix == ".so")]
    found += [e for e in linked(shared) if e.path not in {one.path for one in found}]
    users = "root:x:0:0:root:/root:/nonexistent\nmotley:x:65532:65532::/tmp:/nonexistent\n"
    found += [
        Entry("/etc/passwd", data=users.encode()),
        Entry("/etc/group", data=b"root:x:0:\nmotley:x:65532:\n"),
        Entry("/etc/nsswitch.conf", data=b"hosts: files dns\n"),
        Entry("/tmp", mode=0o1777),
        Entry(f"{PREFIX}/bin/python", link=str(binary)),
        Entry(f"{PREFIX}/bin/{VERSION}", link=str(binary)),
        Entry(f"{PREFIX}/pyvenv.cfg", data=_venv(base)),
    ]
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.exists():
        found.append(Entry(str(certificates), source=certificates))
    return found


def _venv(base: Path) -> bytes:
    version = ".".join(map(str, sys.version_info[:3]))
    return (
        f"home = {base / 'bin'}\ninclude-system-site-packages = false\nversion = {version}\n"
    ).encode()


def _is_of_library(path: Path) -> bool:
    first = path.parts[0]
    is_left_out = first in _LEFT_OUT or first.startswith("config-")
    return not is_left_out and not _TESTS & set(path.parts[:-1]) and path.suffix != ".a"


def requirements() -> list[str]:
    """What pyproject.toml asks for, with the Dockerfile's extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted: list[str] = list(project["dependencies"])
    for extra in sorted(extras()):
        wanted += project["optional-dependencies"][extra]
    return wanted


def distributions(requirements: Iterable[str]) -> list[importlib.metadata.Distribution]:
    """What the requirements lead to, each distribution once, by name.

    Raises: importlib.metadata.PackageNotFoundError if one is not installed here.
    """
    from packaging.requirements import Requirement  # a cluster without a real node needs it not

    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [(Requirement(text), "") for text in requirements]
    seen = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        distribution = importlib.metadata.distribution(requirement.name)
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        found[name] = distribution
        for one in ("", *sorted(requirement.extras)):
            if (name, one) not in seen:
                seen.add((name, one))
                waiting += [(Requirement(text), one) for text in distribution.requires or ()]
    return [found[name] for name in sorted(found)]


def installed(found: Iterable[importlib.metadata.Distribution]) -> list[Entry]:
    """Files of distributions under PACKAGES, and the libraries of this machine they link to."""
    entries: dict[str, Entry] = {}
    shared = []
    for distribution in found:
        for file in distribution.files or ():
            if ".." in file.parts or _TESTS & set(file.parts[:-1]):
                continue
            path = Path(str(distribution.locate_file(file)))
            if not path.is_file() or path.suffix in (".pyc", ".a", ".pyx", ".pxd"):
                continue
            for entry in _with_code(path, f"{PACKAGES}/{file}"):
                entries.setdefault(entry.path, entry)
            if ".so" in path.suffixes:
                shared.append(path)
    for entry in linked(shared):
        entries.setdefault(entry.path, entry)
    return list(entries.values())


def project() -> list[Entry]:
    """The project's own packages and its command, which is a script as pip makes it."""
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = []
    for package in built["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        found += _tree(ROOT / package, f"{PACKAGES}/{Path(package).name}")
    name, version = built["project"]["name"], built["project"]["version"]
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    found.append(Entry(f"{PACKAGES}/{name}-{version}.dist-info/METADATA", data=about.encode()))
    for script, target in built["project"]["scripts"].items():
        found.append(Entry(f"{PREFIX}/bin/{script}", data=script_of(target), mode=0o755))
    return found


def script_of(target: str) -> bytes:
    """A console script for "module:function"."""
    module, _, function = target.partition(":")
    return (
        f"#!{PREFIX}/bin/python\nimport sys\nfrom {module} import {function}\n"
        f'if __name__ == "__main__":\n    sys.exit({function}())\n'
    ).encode()


def engine() -> list[Entry]:
    """The small engine, and its command under the name of the catalog."""
    found = _tree(ROOT / "e2e" / "engines", f"{PACKAGES}/e2e/engines")
    found += _with_code(ROOT / "e2e" / "__init__.py", f"{PACKAGES}/e2e/__init__.py")
    script = script_of("e2e.engines.llamacpp:main")
    return [*found, Entry("/app/llama-server", data=script, mode=0o755)]


def _tree(folder: Path, target: str) -> list[Entry]:
    found = []
    for path in _files(folder):
        inside = path.relative_to(folder)
        if "__pycache__" not in inside.parts:
            found += _with_code(path, f"{target}/{inside}")
    return found


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _with_code(path: Path, target: str) -> list[Entry]:
    """A file, and for a module its bytecode too, valid whatever the file's time is."""
    mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
    found = [Entry(target, source=path, mode=mode)]
    if path.suffix == ".py":
        found.append(Entry(cache_from_source(target), source=path, render=_bytecode))
    return found


def _bytecode(path: Path) -> bytes | None:
    """An unchecked hash-based pyc (PEP 552); None for a file that is no Python of this version."""
    source = path.read_bytes()
    head = MAGIC_NUMBER + (1).to_bytes(4, "little") + source_hash(source)
    cached = Path(cache_from_source(str(path)))
    if cached.exists():
        old, status = cached.read_bytes(), path.stat()
        stamp = int(status.st_mtime).to_bytes(8, "little")[:4] + len(source).to_bytes(4, "little")
        if old[:4] == MAGIC_NUMBER and old[4:8] == bytes(4) and old[8:16] == stamp:
            return head + old[16:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(source, path.name, "exec", dont_inherit=True)
        return head + marshal.dumps(code)
    except (SyntaxError, ValueError):
        return None


def linked(files: Iterable[Path]) -> list[Entry]:
    """The libraries of this machine that these programs and libraries need, where the loader looks."""
    argv = ["ldd", *map(str, files)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    paths = set(re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x", done.stdout, re.MULTILINE))
    packages = sysconfig.get_path("purelib")
    return [
        Entry(path, source=Path(path).resolve(), mode=0o755)
        for path in sorted(paths)
        if not path.startswith(packages)
    ]
