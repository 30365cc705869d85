"""For every decoder type of transformers a tiny model that has what its architecture has.

- `generic`: fields that mean the same in most configurations, given to those that know them.
- `attention`, `experts`, `hybrid`, `nested`: what a type needs beside or instead of them.
- `models`: the settings put together, built, and cut by hand.
"""
