"""A headless Chromium with its libraries and a font, for the tests that look at pages.

The package is @sparticuz/chromium (MIT; Chromium itself is BSD-licensed and more), which packs the
browser for machines that have none. It is brought when a test asks for it, not by `make assets`.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from assets.bring import Asset, AssetError, Package

_FONTS_CONF = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{folder}</dir><cachedir prefix="xdg">fontconfig</cachedir></fontconfig>
"""


def build(package: Path, folder: Path) -> None:
    """Unpack the browser to `chromium`, its libraries to `lib`, a font to `fonts`."""
    with tarfile.open(package) as archive:
        packed = {
            name: _member(archive, f"package/bin/{name}.br")
            for name in ("chromium", "al2023.tar", "fonts.tar")
        }
    program = folder / "chromium"
    program.write_bytes(_unpacked(packed["chromium"]))
    program.chmod(0o755)
    for name in ("al2023.tar", "fonts.tar"):
        with tarfile.open(fileobj=io.BytesIO(_unpacked(packed[name]))) as archive:
            archive.extractall(folder, filter="data")
    # The browser makes this folder if it is not there, and the asset would no longer be as stamped.
    (folder / "locales").mkdir()
    # The package's own settings look for fonts where its first users keep them.
    fonts = (folder.parent / ASSET.name / "fonts").resolve()
    (folder / "fonts.conf").write_text(_FONTS_CONF.format(folder=fonts), encoding="utf-8")


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    if stream is None:
        raise AssetError(f"the Chromium package has no {name}; its layout has changed")
    return stream.read()


def _unpacked(packed: bytes) -> bytes:
    """Undo Brotli with Node.js, which is there because npm is."""
    code = "const z=require('zlib');process.stdin.pipe(z.createBrotliDecompress()).pipe(process.stdout)"
    try:
        ended = subprocess.run(["node", "-e", code], input=packed, capture_output=True, check=True)
    except FileNotFoundError:
        raise AssetError("node is not installed and Chromium needs it; install Node.js") from None
    except subprocess.CalledProcessError as error:
        raise AssetError(f"Chromium cannot be unpacked: {error.stderr[-200:]!r}") from error
    return ended.stdout


ASSET = Asset(
    name="chromium",
    package=Package(
        registry="npm",
        name="@sparticuz/chromium",
        version="147.0.0",
        file_name="sparticuz-chromium-147.0.0.tgz",
        sha256="18fe5404ce845594cd7d592fc07f37a19514079ba4d9c27192ad8b908743f16b",
    ),
    recipe=1,
    build=build,
)
