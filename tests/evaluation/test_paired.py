"""Comparisons of models: what does not depend on how they are asked for, and what is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bequest.errors import InputError
from bequest.evaluation.items import ItemScores, numbered
from bequest.evaluation.mcnemar import mcnemar
from bequest.evaluation.paired import Comparison, Group, Statistics, compare_all, holm

QUICK = Statistics(resamples=200)


def items(values: object, sizes: object = None, task: str = "t") -> ItemScores:
    column = np.asarray(values, dtype=float)
    return ItemScores(
        task=task,
        metric="acc",
        ids=tuple(f"item {row}" for row in range(len(column))),
        values=column,
        sizes=np.ones(len(column)) if sizes is None else np.asarray(sizes, dtype=float),
        higher_is_better=True,
    )


def compared(before: ItemScores, after: ItemScores, statistics: Statistics = QUICK) -> Comparison:
    (one,) = compare_all(
        [(Group(name="a", runs=(before,)), Group(name="b", runs=(after,)))], statistics
    )
    return one


def shuffled(scores: ItemScores, order: list[int]) -> ItemScores:
    return replace(
        scores,
        ids=tuple(scores.ids[row] for row in order),
        values=scores.values[order],
        sizes=scores.sizes[order],
    )


# Right or wrong, graded, and documents of several sizes.
samples = st.integers(2, 30).flatmap(
    lambda count: st.tuples(
        st.lists(st.sampled_from([0.0, 1.0]), min_size=count, max_size=count)
        | st.lists(st.floats(-9, 9).map(lambda x: round(x, 3)), min_size=count, max_size=count),
        st.lists(st.sampled_from([0.0, 1.0]), min_size=count, max_size=count)
        | st.lists(st.floats(-9, 9).map(lambda x: round(x, 3)), min_size=count, max_size=count),
        st.just([1.0] * count)
        | st.lists(st.integers(1, 9).map(float), min_size=count, max_size=count),
        st.permutations(range(count)),
    )
)


@given(samples)
def test_order_does_not_matter_and_exchanging_the_models_turns_the_sign(sample: object) -> None:
    first, second, sizes, order = sample  # type: ignore[misc]
    before, after = items(first, sizes), items(second, sizes)
    one = compared(before, after)
    same = compared(shuffled(before, order), shuffled(after, order[::-1]))
    assert same == replace(
        one,
        before=pytest.approx(one.before),  # type: ignore[arg-type]
        after=pytest.approx(one.after),  # type: ignore[arg-type]
        difference=pytest.approx(one.difference, abs=1e-9),  # type: ignore[arg-type]
        interval=pytest.approx(one.interval, abs=1e-9),  # type: ignore[arg-type]
        smallest_difference=pytest.approx(one.smallest_difference),  # type: ignore[arg-type]
    )
    turned = compared(after, before)
    assert turned.difference == pytest.approx(-one.difference, abs=1e-9)
    assert turned.p_value == one.p_value
    assert turned.smallest_difference == pytest.approx(one.smallest_difference)
    assert one.interval is not None and turned.interval is not None
    assert turned.interval == pytest.approx((-one.interval[1], -one.interval[0]), abs=1e-9)
    opposite = {"better": "worse", "worse": "better"}
    assert turned.verdict == opposite.get(one.verdict, one.verdict)


def test_right_or_wrong_items_are_counted_and_tested_exactly() -> None:
    before, after = items([1, 1, 0, 0, 0, 0, 1, 0]), items([1, 0, 1, 1, 1, 1, 1, 0])
    one = compared(before, after)
    assert one.changed == (4, 1)
    assert one.p_value == mcnemar(4, 1)
    assert (one.before, one.after, one.difference) == (3 / 8, 6 / 8, 3 / 8)


def test_bits_per_byte_is_a_ratio_of_sums() -> None:
    bits_before, bits_after, sizes = [10.0, 30.0], [8.0, 33.0], [10.0, 20.0]
    one = compared(items(bits_before, sizes), items(bits_after, sizes))
    assert (one.before, one.after) == (40 / 30, 41 / 30)
    assert one.difference == pytest.approx(1 / 30)
    assert one.changed is None


def test_a_lower_number_is_better_where_it_is() -> None:
    generator = np.random.default_rng(0)
    sizes = generator.integers(100, 200, size=50).astype(float)
    before = replace(items(sizes, sizes), higher_is_better=False)
    after = replace(before, values=before.values * generator.normal(0.9, 0.02, size=50))
    assert compared(before, after).verdict == "better"
    assert compared(after, before).verdict == "worse"


def test_no_change_seen_says_what_would_have_been_seen() -> None:
    generator = np.random.default_rng(1)
    before = generator.integers(0, 2, size=200).astype(float)
    after = before.copy()
    after[:10] = 1 - after[:10]
    one = compared(items(before), items(after))
    assert one.verdict == "no change seen"
    assert one.smallest_difference is not None and 0.03 < one.smallest_difference < 0.08
    # Asked of four tasks at once, each must show more.
    group = Group(name="a", runs=(items(before),)), Group(name="b", runs=(items(after),))
    several = compare_all([group] * 4, QUICK)
    assert several[0].smallest_difference is not None
    assert several[0].smallest_difference > one.smallest_difference


def test_identical_and_too_few() -> None:
    documents = items([5.0, 7.0, 9.0] * 4, [4.0, 5.0, 6.0] * 4)
    same = compared(documents, documents)
    assert (same.verdict, same.interval, same.p_value) == ("identical", (0.0, 0.0), 1.0)
    right = items([1.0] * 50)
    unchanged = compared(right, right)
    assert unchanged.verdict == "no change seen"
    assert unchanged.interval == pytest.approx((-0.0711, 0.0711), abs=1e-4)
    single = compared(items([5.0], [4.0]), items([4.0], [4.0]))
    assert (single.verdict, single.interval, single.p_value, single.corrected_p) == (
        "too few items to tell",
        None,
        None,
        None,
    )
    three = compared(items([5.0, 6, 7]), items([4.0, 5, 6]))
    assert three.verdict == "too few items to tell" and three.smallest_difference is None


def brute_force_holm(p_values: list[float]) -> list[float]:
    """The least level at which Holm's procedure rejects each, by trying every level that matters."""

    def rejected(level: float) -> set[int]:
        left = sorted(range(len(p_values)), key=lambda row: p_values[row])
        out: set[int] = set()
        for row in left:
            if p_values[row] * (len(p_values) - len(out)) > level * (1 + 1e-12):
                break
            out.add(row)
        return out

    count = len(p_values)
    levels = sorted({min(1.0, p * k) for p in p_values for k in range(1, count + 1)} | {1.0})
    return [
        next((level for level in levels if row in rejected(level)), 1.0) for row in range(count)
    ]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_equals_the_procedure(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(brute_force_holm(p_values))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_correction_goes_over_all_comparisons() -> None:
    before, after = items([0.0] * 20), items([1.0] * 6 + [0.0] * 14)
    pair = Group(name="a", runs=(before,)), Group(name="b", runs=(after,))
    assert compare_all([pair], QUICK)[0].verdict == "better"
    ten = compare_all([pair] * 10, QUICK)
    assert ten[0].corrected_p == pytest.approx(10 * 2 / 64)
    assert ten[0].verdict == "no change seen"


def test_items_that_do_not_pair_are_refused() -> None:
    good = items([0, 1, 1])
    for other, words in (
        (items([0, 1]), "1 are not in both"),
        (items([0, 1, 1, 1]), "1 are not in both"),
        (replace(good, ids=("x", "y", "z")), "do not pair: 6"),
        (items([0, 1, 1], [1, 1, 2]), "another size"),
        (replace(good, metric="f1"), "same metric"),
        (replace(good, task="u"), "same metric of the same task"),
    ):
        with pytest.raises(InputError, match=words):
            compared(good, other)


def test_items_that_mean_nothing_are_refused() -> None:
    for changes, words in (
        ({"ids": ("a", "a", "b")}, "several items of one id"),
        ({"values": np.array([0.0, np.nan, 1.0])}, "not finite"),
        ({"sizes": np.array([1.0, 0.0, 1.0])}, "no size"),
        ({"sizes": np.ones(2)}, "2 sizes"),
    ):
        with pytest.raises(InputError, match=words):
            replace(items([0, 1, 1]), **changes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no items"):
        items([])


def test_settings_out_of_range_are_refused() -> None:
    for field in ("alpha", "level", "power"):
        with pytest.raises(InputError, match=field):
            Statistics(**{field: 1.0})
    with pytest.raises(InputError, match="resamples"):
        Statistics(resamples=10)


def test_numbered() -> None:
    assert numbered(["a", "b", "a", "a"]) == ["a", "b", "a#2", "a#3"]
