"""Bring assets that are not there yet: `python -m assets [NAME...]`.

Without a name it brings what the demo and the tests need; with names, those.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from assets import brown, smollm2, vision, wikipedia
from assets.bring import ROOT, AssetError, bring

DEFAULT = (brown.ASSET, smollm2.ASSET)
ON_DEMAND = (*vision.ASSETS, wikipedia.ASSET)
"""Brought only by name: what experiments need."""


def main(names: Sequence[str] = ()) -> int:
    """Bring the assets one after the other; a fault ends it with one sentence.

    Args:
        names: of the assets; none for the default ones.
    """
    known = {asset.name: asset for asset in (*DEFAULT, *ON_DEMAND)}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"assets: {unknown[0]!r} is none of {', '.join(known)}", file=sys.stderr)
        return 2
    try:
        for asset in [known[name] for name in names] or DEFAULT:
            bring(asset, ROOT)
    except AssetError as error:
        print(f"make assets: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("make assets: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
