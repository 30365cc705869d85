"""Tiny random models of real architectures, as hubs hold them, and an independent way to cut them.

- `specimen`: what one animal of the zoo is; `dense`, `classic` and `experts` list them.
- `layouts`: how a checkpoint lies on disk (one file, shards, `.bin`, old prefixes, old configs).
- `keeper`: builds a specimen once a session and hands out its folder.
- `reference`: the model with the chosen blocks, built by hand from transformers' own modules.
- `raw`: tensors of a folder as bytes, read without bequest and without safetensors.
- `refused`, `damaged`: folders that must be refused.
- `checks`: what a result is held to.
- `command`: the command, run, forked or killed.
"""
