"""MethodConfig: what it refuses, and that it needs no torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from bequest.errors import InputError
from bequest.training.method import MethodConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scheme": "flaw"}, "scheme is 'flaw'"),
        ({"temperature": "0"}, "temperature is '0'"),
        ({"scheme": "dft", "temperature": "median"}, "scheme dft has none"),
        ({"scheme": "stm", "temperature": "2"}, "scheme stm has none"),
        ({"scheme": "dft", "normalizer": "weights"}, "normalizer 'weights'"),
        ({"normalizer": "sum"}, "normalizer is 'sum'"),
        ({"scheme": "uniform", "scores": "s.parquet"}, "scores is given"),
        ({"l2": -1.0}, "l2 is -1.0"),
        ({"kl": float("nan")}, "kl is nan"),
        ({"l2": float("inf")}, "l2 is inf"),
        ({"sfa": -1}, "sfa is -1"),
        ({"sfa_alpha": 1.0}, "sfa_alpha is 1.0"),
        ({"wise_ft": 0.0}, "wise_ft is 0.0"),
        ({"wise_ft": 1.5}, "wise_ft is 1.5"),
    ],
)
def test_it_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MethodConfig(**fields)


@pytest.mark.parametrize(
    "fields", [{"linear_probe": True}, {"l2": 1.0}, {"sfa": 4}, {"wise_ft": 0.5}]
)
def test_it_refuses_with_adapters(fields: dict[str, Any]) -> None:
    method = MethodConfig(**fields)
    method.check_adapters(is_adapted=False)
    with pytest.raises(InputError, match=next(iter(fields))):
        method.check_adapters(is_adapted=True)
    MethodConfig(kl=1.0, scheme="flow-token", temperature="2.5").check_adapters(is_adapted=True)


def test_it_needs_no_torch() -> None:
    code = "import sys, bequest.training.method; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
