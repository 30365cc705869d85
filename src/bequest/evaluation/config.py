"""What `bequest evaluate` can be asked."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_PROMPT = "{question}\nPut the final answer between <answer> and </answer>.\n"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What `bequest evaluate` is asked to do."""

    models: tuple[str, ...] = ()
    """The model that is compared with, then those that are judged: folders or hub ids, each
    possibly as LABEL=MODEL; models of one label are runs of one method."""
    texts: tuple[str, ...] = ()
    """Files of text (.jsonl with a "text" a line, or .txt) to measure bits per byte on."""
    tasks: tuple[str, ...] = ()
    """Tasks of lm-eval: names, .yaml files, or .json and .jsonl files of questions; NAME:METRIC
    chooses a metric."""
    generate: tuple[str, ...] = ()
    """Generators of reasoning-gym, whose problems the models answer."""
    images: tuple[str, ...] = ()
    """Labelled images, for image classifiers: folders with a folder for each class, .parquet
    files, or hub ids."""
    image_split: str | None = None
    """Part of the images, such as test[:1000]; left out: the only one, or test where there are
    several."""
    image_column: str = "image"
    """Their column of images."""
    label_column: str = "label"
    """Their column of labels."""
    image_classes: tuple[str, ...] = ()
    """JSON files with the models' classes, by number or name, for each class of some images."""
    original_head: bool = False
    """Read images with the head that models had before `bequest finetune` (where they bring it)."""
    out: str | None = None
    """Folder to write; what an earlier run left there is not computed again."""
    target: tuple[str, ...] = ()
    """Tasks that the change was made for; the others show what was forgotten."""
    between: bool = False
    """Also compare the judged models with one another."""
    limit: int | None = None
    """The first items of each text file and task only; images evenly spaced."""
    num_fewshot: int | None = None
    """Examples before each item of a task; as the task says if not given."""
    chat: bool = False
    """Apply the model's chat template in tasks and problems."""
    task_folder: str | None = None
    """Folder of YAML files whose tasks may be named."""
    generate_size: int = 100
    """Problems of each generator."""
    generate_seed: int = 0
    """Seed of the problems."""
    prompt: str = DEFAULT_PROMPT
    """How a problem is put to the model; {question} stands for it."""
    max_new_tokens: int = 256
    """The most tokens of an answer to a problem."""
    window_bytes: int = 4096
    """Text that a model sees at once, for bits per byte."""
    overlap_bytes: int = 1024
    """How much of it a later window repeats."""
    dtype: str = "auto"
    """Run the models in float32, bfloat16 or float16; auto is that of their files."""
    batch_size: str = "16"
    """Requests or problems that run at once; auto lets lm-eval try."""
    tokens_per_batch: int = 4096
    """The most tokens, padding included, that run at once for bits per byte."""
    alpha: float = 0.05
    """Chance to call any difference, over all comparisons, that is not there."""
    level: float = 0.95
    """Of the interval of each single task."""
    resamples: int = 10000
    """Draws of the bootstrap."""
    seed: int = 0
    """Of the draws."""
    overwrite: bool = False
    """Compute again what an earlier run left in `out`."""
    trust_remote_code: bool = False
    """Let Python files of a model's folder run."""
