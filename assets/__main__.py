"""Bring every asset that is not there yet: `python -m assets`."""

from __future__ import annotations

import sys

from assets import brown, smollm2
from assets.bring import ROOT, AssetError, bring


def main() -> int:
    """Bring the assets one after the other; a fault ends it with one sentence."""
    try:
        for asset in (brown.ASSET, smollm2.ASSET):
            bring(asset, ROOT)
    except AssetError as error:
        print(f"make assets: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("make assets: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
