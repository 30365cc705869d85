"""The linear probe: the head is trained on a body that stays as it is."""

from __future__ import annotations

from typing import Any

from bequest.errors import InputError


def freeze_body(model: Any) -> None:
    """Let only the output embedding of a language model be trained.

    Args:
        model: A causal language model of transformers.

    Raises:
        InputError: The head is the token embedding as well, so that training it would change what
            the body reads; or the model has no head.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise InputError(f"linear_probe trains the head, and {type(model).__name__} has none")
    embedding = model.get_input_embeddings()
    if embedding is not None and head.weight is embedding.weight:
        raise InputError(
            f"linear_probe trains the head alone, but the head of this {type(model).__name__} is "
            "its token embedding, too (tie_word_embeddings); untie them first, or leave it out"
        )
    model.requires_grad_(False)
    head.requires_grad_(True)
