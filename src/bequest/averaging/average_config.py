"""What `bequest average` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from bequest.averaging.mixture import Mixture
from bequest.averaging.plan import Manner
from bequest.errors import InputError


@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """What `bequest average` is asked to do."""

    sources: tuple[str, ...] = ()
    """Folder of a run with checkpoint-N, stepN or iterN in it, or the checkpoints themselves, oldest
    first; then the folder to write."""
    out: str | None = None
    """Folder to write, if it is not given by place."""
    window: int | None = None
    """Checkpoints to average (default: 5 of a run)."""
    spacing: int | None = None
    """Steps between them; the newest checkpoints, as they are, if left out."""
    end: int | None = None
    """Step of the newest one; the newest complete checkpoint if left out."""
    coefficients: str = "uniform"
    """uniform, linear, ema:ALPHA, decay:CURVE (linear, cosine, 1-sqrt, inverse-sqrt or factors),
    qam:SPEC, or the numbers themselves, oldest first."""
    blend: float = 1.0
    """Share of the average, 0 to 1; the rest is the newest checkpoint."""
    exclude: tuple[str, ...] = ()
    """Regular expressions; tensors whose names they match are taken from the newest checkpoint."""
    repo: str | None = None
    """Hub repository whose revisions are averaged, instead of a run."""
    revisions: str | None = None
    """Its revisions, oldest first, such as step1000,step2000."""
    config_from: str | None = None
    """Model whose configuration and tokenizer the result gets, for checkpoints without their own."""
    dtype: str | None = None
    """Store floats as float64, float32, float16 or bfloat16; the checkpoints' own if left out."""
    sliding: bool = False
    """Make the average that ends at every checkpoint of the run, each in OUT/step-N."""
    search: bool = False
    """Try windows and spacings against --texts, and write the best average."""
    follow: bool = False
    """Watch the folder of a run that goes on, and write OUT/step-N for each new checkpoint."""
    texts: str | None = None
    """Held-out text to evaluate on: a .jsonl file with a field "text", or a .txt file."""
    discard: bool = False
    """With --sliding: only evaluate the averages, keep none."""
    windows: str | None = None
    """With --search: sizes to try, such as 2,5,10 (default: 1,2,3,5,8,12)."""
    spacings: str | None = None
    """With --search: steps between members to try, such as 500,1000."""
    keep: int = 1
    """With --follow: how many averages stay in OUT."""
    poll: float = 5.0
    """With --follow: seconds between two looks at the run's folder."""
    skip_bad: bool = False
    """Leave out checkpoints that hold NaN or Inf instead of refusing them."""
    verify: bool = False
    """Let transformers load the planned result; without a configuration of their own it always does."""
    max_shard_size: str = "5GB"
    """Largest size of one weight file."""
    overwrite: bool = False
    """Replace a model that stands at the folder to write."""
    hash: bool = False
    """Record the SHA-256 of whole weight files, which takes longer than the average."""
    trust_remote_code: bool = False
    """Let Python files of the model's folder run when the result is verified."""

    @property
    def mixture(self) -> Mixture:
        """How the members are weighted."""
        return Mixture(coefficients=self.coefficients, blend=self.blend, exclude=self.exclude)

    @property
    def manner(self) -> Manner:
        """How the result is stored and checked."""
        return Manner(
            dtype=self.dtype,
            config_from=self.config_from,
            max_shard_size=self.max_shard_size,
            overwrite=self.overwrite,
            full_hash=self.hash,
            verify=self.verify,
            trust_remote_code=self.trust_remote_code,
            skip_bad=self.skip_bad,
        )


def require_out(config: AverageConfig) -> str:
    """Return the folder to write.

    Raises:
        InputError: it is not given.
    """
    if config.out is None:
        raise InputError("out is missing; name the folder to write last.")
    return config.out
