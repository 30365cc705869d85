"""What one writes today without a tool: load, cut, save. Arguments: SOURCE OUT LAYERS."""

from __future__ import annotations

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

source, out, layers = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
model.model.layers = model.model.layers[:layers]
model.config.num_hidden_layers = layers
if getattr(model.config, "layer_types", None):
    model.config.layer_types = model.config.layer_types[:layers]
model.save_pretrained(out, max_shard_size="5GB")
AutoTokenizer.from_pretrained(source).save_pretrained(out)
