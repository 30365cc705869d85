from __future__ import annotations

import numpy as np
import pytest

from bequest.averaging.mixture import Mixture
from bequest.errors import InputError


def test_excluded_tensors_come_from_the_newest() -> None:
    mixture = Mixture(coefficients="uniform", blend=0.6, exclude=[r"embed", r"^head\."])
    np.testing.assert_array_equal(mixture.vector("model.embed_tokens.weight", 4), [0, 0, 0, 1])
    np.testing.assert_array_equal(mixture.vector("head.weight", 4), [0, 0, 0, 1])
    np.testing.assert_allclose(mixture.vector("model.head.weight", 4), [0.15, 0.15, 0.15, 0.55])


def test_patterns_are_checked() -> None:
    with pytest.raises(InputError, match="no regular expression"):
        Mixture(exclude=["("])
    with pytest.raises(InputError, match="blend"):
        Mixture(blend=2.0)
    mixture = Mixture(exclude=["embd"])
    with pytest.raises(InputError, match="'embd', which matches no tensor"):
        mixture.check_names(["model.embed_tokens.weight"])
    Mixture(exclude=["embed"]).check_names(["model.embed_tokens.weight"])
