"""Folders that hold something, but nothing that blocks may be cut from as asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from zoo import keeper
from zoo.damaged import DAMAGED


def encoder_decoder(target: Path) -> None:
    """A tiny T5."""
    config = T5Config(
        vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_layers=4, num_decoder_layers=4, num_heads=4
    )
    T5ForConditionalGeneration(config).save_pretrained(target)


def masked_encoder(target: Path) -> None:
    """A tiny BERT."""
    config = BertConfig(
        vocab_size=96,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=48,
    )
    BertForMaskedLM(config).save_pretrained(target)


def unknown_type(target: Path) -> None:
    """A `model_type` that transformers has never heard of."""
    keeper.copy("llama", target)
    keeper.edit_config(target, model_type="quantum_llama", architectures=["QuantumLlama"])


def no_type(target: Path) -> None:
    """A config.json that is not a model's."""
    keeper.copy("llama", target)
    (target / "config.json").write_text('{"learning_rate": 0.1}')


def remote_code(target: Path) -> None:
    """A model with code of its own, which touches a file if anybody runs it."""
    keeper.copy("llama", target)
    keeper.edit_config(
        target,
        model_type="homemade",
        auto_map={
            "AutoConfig": "configuration_homemade.HomemadeConfig",
            "AutoModelForCausalLM": "modeling_homemade.HomemadeForCausalLM",
        },
    )
    trap = f"open({str(target / 'it-ran')!r}, 'w')\n"
    (target / "configuration_homemade.py").write_text(trap)
    (target / "modeling_homemade.py").write_text(trap)


def remote_code_under_a_known_type(target: Path) -> None:
    """The same under the name of a model that transformers has too."""
    remote_code(target)
    keeper.edit_config(target, model_type="llama")


def broken_config(target: Path) -> None:
    """A config.json cut off in the middle."""
    keeper.copy("llama", target)
    text = (target / "config.json").read_text()
    (target / "config.json").write_text(text[: len(text) // 2])


def config_is_a_list(target: Path) -> None:
    """JSON, but no object."""
    keeper.copy("llama", target)
    (target / "config.json").write_text("[1, 2]")


def no_config(target: Path) -> None:
    """Tensors without a configuration."""
    keeper.copy("llama", target)
    (target / "config.json").unlink()


def no_weights(target: Path) -> None:
    """A configuration without tensors."""
    keeper.copy("llama", target)
    (target / "model.safetensors").unlink()


def empty_folder(target: Path) -> None:
    """Nothing."""
    target.mkdir()


def a_file(target: Path) -> None:
    """A file where a folder should be."""
    target.write_text("no folder")


REFUSED: dict[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in [
        encoder_decoder,
        masked_encoder,
        unknown_type,
        no_type,
        remote_code,
        remote_code_under_a_known_type,
        broken_config,
        config_is_a_list,
        no_config,
        no_weights,
        empty_folder,
        a_file,
        *DAMAGED,
    ]
}
"""Each makes the folder it is given; inheriting half of it is refused with exit code 2."""
