"""The papers that model cards cite: one table, so that a card names what was done and no more."""

from __future__ import annotations

_PAPERS = {
    "inheritune": ("Inheritune", "2404.08634"),
    "lawa": ("latest weight averaging, LAWA", "2306.03241"),
    "ema": ("exponential moving average of the weights, EMA", "2411.18704"),
    "swa": ("stochastic weight averaging, SWA", "1803.05407"),
    "wsm": ("averages that stand for a learning-rate decay, WSM", "2507.17634"),
    "distillation": ("distillation", "1503.02531"),
    "flow": ("FLOW", "2502.02797"),
    "stm": ("selective token masking, STM", "2501.14315"),
    "dft": ("dynamic fine-tuning, DFT", "2508.05629"),
    "l2": ("L2 to the start, L2-SP", "1802.01483"),
    "kl": ("KL to the start, as in learning without forgetting", "1606.09282"),
    "sfa": ("blends with the start while training, SFA", "2501.05559"),
    "wise_ft": ("a blend with the start after training, WiSE-FT", "2109.01903"),
    "lora": ("LoRA", "2106.09685"),
}
"""What a method is called, and its paper on arXiv."""


def cited(*methods: str) -> str:
    """Return a card's last paragraph: the papers of what was done, and where its lineage is.

    Args:
        methods: keys of this module's table, such as "lawa"; none where no paper's method was used.
    """
    named = [
        f"{name} ([arXiv {number}](https://arxiv.org/abs/{number}))"
        for name, number in (_PAPERS[method] for method in dict.fromkeys(methods))
    ]
    label = "Method" if len(named) == 1 else "Methods"
    sentence = f"{label}: {'; '.join(named)}. " if named else ""
    return (
        f"{sentence}`bequest.json` holds the lineage and all settings, `results.json` what was "
        "measured; `bequest lineage FOLDER` verifies the files."
    )
