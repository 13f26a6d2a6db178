"""Builds the Debian package: `python packaging/deb.py [--suite SUITE]` (`make deb`).

Lays out a copy of the tree under build/deb/, fills a virtual environment for the suite's Python from the hashes in
requirements.lock, and lets debhelper do the rest.  The same commit gives the same bytes: the files are those that git
knows, the date is the commit's, and wheels are taken as they are.  Runs on any Debian or Ubuntu, whatever its Python.
"""

from __future__ import annotations

import argparse
import email.parser
import email.utils
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BUILD = REPOSITORY / "build"
LOCK = REPOSITORY / "requirements.lock"
SHIPPED = ("aitherd", "units", "etc", "packaging", "docs", "README.md", "ARCHITECTURE.md", "SECURITY.md", "LICENSE")
"""What of the tree goes into the copy; what is not there yet is left out."""

PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux_2_12", "manylinux_2_5")
"""Wheels for any C library up to 2.34: the oldest suite below has 2.39."""


@dataclass(frozen=True, slots=True)
class Suite:
    """What differs between the suites that the package is built for."""

    python: str
    """Version of its python3, to which the package is bound."""
    suffix: str
    """Of the package's version; sorts as the suites follow each other."""


SUITES = {
    "noble": Suite("3.12", "ubuntu24.04"),
    "trixie": Suite("3.13", "deb13"),
    "forky": Suite("3.14", "deb14"),
}


class BuildError(Exception):
    """The package cannot be built; the text says why."""


def main() -> int:
    """Builds for one suite and prints the path of the package."""
    parser = argparse.ArgumentParser(prog="python packaging/deb.py", description="Build the Debian package.")
    parser.add_argument("--suite", choices=SUITES, default="trixie")
    parser.add_argument("--version", default=project_version(), help="upstream version (default: the project's)")
    parser.add_argument("--output", type=Path, default=BUILD, help="directory for the package (default: build)")
    arguments = parser.parse_args()
    try:
        print(build(arguments.suite, arguments.version, arguments.output))
    except BuildError as error:
        print(f"deb: {error}", file=sys.stderr)
        return 1
    return 0


def project_version() -> str:
    """The version in pyproject.toml."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        version: str = tomllib.load(file)["project"]["version"]
    return version


def build(suite_name: str, version: str, output: Path) -> Path:
    """Builds the package and returns its path."""
    suite = SUITES[suite_name]
    full_version = f"{version}+{suite.suffix}"
    epoch = commit_time()
    work = BUILD / "deb" / suite_name
    tree = work / f"aitherd-{version}"
    shutil.rmtree(work, ignore_errors=True)
    copy_tree(tree)
    site_packages = lay_out_environment(tree, suite)
    lay_out_debian(tree, suite, full_version, suite_name, epoch, site_packages)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    # The build needs debhelper and nothing of the suite itself, so what it needs is checked by running it.
    command = ["dpkg-buildpackage", "--build=binary", "--no-sign", "--no-check-builddeps", "--host-arch=amd64"]
    log = work / "build.log"
    with log.open("w") as file:
        done = subprocess.run(command, cwd=tree, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise BuildError(f"dpkg-buildpackage failed:\n{tail(log)}")
    output.mkdir(parents=True, exist_ok=True)
    # A file is replaced and not rewritten: somebody may be reading the old one.
    return (work / f"aitherd_{full_version}_amd64.deb").replace(output / f"aitherd_{full_version}_amd64.deb")


def commit_time() -> int:
    """When what is built was last changed, in Unix seconds: SOURCE_DATE_EPOCH, or the date of the last commit."""
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(epoch)
    return int(git("log", "-1", "--format=%ct"))


def git(*arguments: str) -> str:
    """What a git command prints."""
    command = ["git", "-c", f"safe.directory={REPOSITORY}", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def copy_tree(tree: Path) -> None:
    """Copies what git knows of the shipped files, and what it does not ignore, with the modes that git records."""
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *SHIPPED)
    for name in sorted(set(filter(None, listed.split("\0")))):
        source, target = REPOSITORY / name, tree / name
        if not source.exists():
            # Deleted and not committed yet.
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def lay_out_environment(tree: Path, suite: Suite) -> Path:
    """Makes `venv/`, a virtual environment of the suite's Python; returns its site-packages."""
    venv = tree / "venv"
    site_packages = venv / "lib" / f"python{suite.python}" / "site-packages"
    shutil.copytree(dependencies(suite), site_packages)
    shutil.copytree(tree / "aitherd", site_packages / "aitherd")
    (venv / "bin").mkdir()
    (venv / "bin" / "python").symlink_to(f"/usr/bin/python{suite.python}")
    configuration = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {suite.python}\n"
    (venv / "pyvenv.cfg").write_text(configuration)
    return site_packages


def dependencies(suite: Suite) -> Path:
    """The locked dependencies for the suite's Python, unpacked once for each lock file."""
    digest = hashlib.sha256(LOCK.read_bytes() + repr(PLATFORMS).encode()).hexdigest()[:16]
    ready = BUILD / "deb" / f"python{suite.python}-{digest}"
    if ready.is_dir():
        return ready
    new = ready.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    command += ["--require-hashes", "--no-deps", "--only-binary=:all:", "--no-compile", "--requirement", str(LOCK)]
    command += ["--implementation=cp", f"--python-version={suite.python}"]
    command += [f"--platform={platform}_x86_64" for platform in PLATFORMS]
    done = subprocess.run([*command, f"--target={new}"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"pip cannot install the locked dependencies for Python {suite.python}:\n{done.stderr}")
    for name in ("bin", "share", "include"):
        shutil.rmtree(new / name, ignore_errors=True)
    for record in new.glob("*.dist-info/*"):
        # What pip notes about this installation; the package manager does its own book-keeping.
        if record.name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
            record.unlink()
    for path in [new, *new.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    new.rename(ready)
    return ready


def lay_out_debian(tree: Path, suite: Suite, version: str, suite_name: str, epoch: int, site_packages: Path) -> None:
    """Makes `debian/` from packaging/debian and what is known only now."""
    debian = tree / "debian"
    shutil.copytree(tree / "packaging" / "debian", debian)
    control = (debian / "control").read_text()
    maintainer = re.search(r"^Maintainer: (.*)$", control, re.MULTILINE)
    if maintainer is None:
        raise BuildError("packaging/debian/control names no maintainer")
    date = email.utils.formatdate(epoch)
    entry = f"aitherd ({version}) {suite_name}; urgency=medium\n\n  * Release.\n\n -- {maintainer[1]}  {date}\n"
    (debian / "changelog").write_text(entry)
    low, high = suite.python, next_minor(suite.python)
    python = f"python3 (>= {low}~), python3 (<< {high}~)"
    (debian / "control").write_text(control.replace("${suite:Python}", python))
    with (debian / "copyright").open("a") as file:
        file.writelines(licences(site_packages))
    with (debian / "aitherd.install").open("a") as file:
        file.writelines(f"{source} {target}\n" for source, target in optional_files(tree))
    pages = sorted(path.relative_to(tree).as_posix() for path in (tree / "packaging" / "man").glob("*.[1-8]"))
    (debian / "aitherd.manpages").write_text("".join(f"{page}\n" for page in pages))


def optional_files(tree: Path) -> Iterator[tuple[str, str]]:
    """Source and target directory of the files that are installed if the tree has them."""
    completions = "packaging/completions"
    for source, target in (
        ("etc/aitherd.toml", "etc/aither"),
        ("etc/models.d", "usr/share/aitherd"),
        ("etc/schema", "usr/share/aitherd"),
        (f"{completions}/bash/aitherctl", "usr/share/bash-completion/completions"),
        (f"{completions}/zsh/_aitherctl", "usr/share/zsh/vendor-completions"),
        (f"{completions}/fish/aitherctl.fish", "usr/share/fish/vendor_completions.d"),
    ):
        if (tree / source).exists():
            yield source, target


def next_minor(version: str) -> str:
    """The minor version after `version`: 3.14 after 3.13."""
    major, minor = version.split(".")
    return f"{major}.{int(minor) + 1}"


def licences(site_packages: Path) -> Iterator[str]:
    """A paragraph of debian/copyright for each dependency; the texts are in its .dist-info."""
    for metadata in sorted(site_packages.glob("*.dist-info/METADATA")):
        fields = email.parser.HeaderParser().parsestr(metadata.read_text(encoding="utf-8"))
        # Old metadata has the whole text in License, or only a classifier.
        licence = fields["License-Expression"] or fields["License"] or ""
        if not licence or "\n" in licence:
            classifiers = [value for value in fields.get_all("Classifier", []) if value.startswith("License ::")]
            licence = classifiers[0].rsplit(" :: ", 1)[1] if classifiers else "see the text"
        author = fields["Author"] or fields["Author-email"] or fields["Maintainer-email"] or "its authors"
        directory = f"/usr/lib/aitherd/lib/{site_packages.parent.name}/site-packages/{metadata.parent.name}"
        short = re.sub(r"[^A-Za-z0-9.+-]+", "-", licence)
        yield (
            f"\nFiles: {metadata.parent.name.split('-')[0]}*\n"
            f"Copyright: {' '.join(author.split())}\n"
            f"License: {short}\n The text is in {directory}.\n"
        )


def tail(log: Path, lines: int = 25) -> str:
    """The end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


if __name__ == "__main__":
    sys.exit(main())
