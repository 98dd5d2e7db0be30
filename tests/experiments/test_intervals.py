"""Means and their intervals, and the file of results."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from experiments import comparison, records
from experiments.intervals import summary


def test_summary_is_students():
    values = [0.3, -0.1, 0.4, 0.2, 0.6]
    of = summary(values)
    test = stats.ttest_1samp(values, 0)
    low, high = test.confidence_interval(0.95)
    np.testing.assert_allclose([of.low, of.high], [low, high])
    assert of.decides == (test.pvalue < 0.05)
    shifted = summary([value - low for value in values])
    np.testing.assert_allclose(shifted.low, 0, atol=1e-12)


def test_detectable_difference_is_found_in_four_of_five():
    rng = np.random.default_rng(0)
    count, draws = 6, rng.normal(size=(4000, 6))
    delta = summary(np.sqrt((count - 1) / count) * np.array([1, -1, 1, -1, 1, -1])).detectable  # of sd 1
    found = np.mean([summary(row).decides for row in draws + delta])
    assert 0.75 < found < 0.85


def test_a_single_value_has_no_interval():
    of = summary([1.5])
    assert of.mean == 1.5 and of.count == 1 and math.isnan(of.half) and not of.decides
    with pytest.raises(ValueError, match="no values"):
        summary([])


def run(seed, **more):
    return {"config": "c", "arm": "none", "seed": seed, "rate": 0.1, "digest": "d", **more}


def test_a_file_of_results_survives_what_happens_to_files(tmp_path):
    path = tmp_path / "results" / "c.jsonl"
    assert records.read(path) == []
    records.append(path, run(0))
    with path.open("a") as file:
        file.write(json.dumps(run(1))[:20])  # of a process that was killed
    assert records.read(path) == [run(0)]
    records.append(path, run(2))
    assert records.read(path) == [run(0), run(2)]
    path.write_text(path.read_text() + json.dumps(run(2, more=1)) + "\n")  # cat of two machines' files
    assert records.read(path) == [run(0), run(2)]
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(ValueError, match="c.jsonl, line 1"):
        records.read(path)


def test_runs_of_other_options_are_not_mixed():
    records.check_same([run(0)], {"none": "d", "other": "e"}, "file")
    with pytest.raises(ValueError, match="arm 'none'.*other options"):
        records.check_same([run(0)], {"none": "e"}, "file")


def scored(arm, seed, rate, val, test):
    scores = {split: {"miou": miou, "iou": {"ball": miou}} for split, miou in (("val", val), ("test", test))}
    return run(seed) | {"arm": arm, "rate": rate, "loss": [1.0, 0.5]} | scores


def test_arms_are_compared_at_their_own_best_rates_by_seeds_that_both_have():
    runs = [scored("none", seed, 0.1, 0.4, 0.40 + 0.01 * seed) for seed in range(3)]
    # a single good seed, at a rate that others lack, does not make that rate the best one
    runs += [scored("none", 0, 0.2, 0.3, 0.9), scored("none", 7, 0.2, 0.9, 0.9)]
    runs += [scored("other", seed, 0.2, 0.5, 0.42 + 0.01 * seed) for seed in range(3)]
    first, other = comparison.compare(runs, ["none", "other", "absent"])
    assert (first.rate, other.rate) == (0.1, 0.2)
    assert first.test.count == 3 and first.difference is None
    assert other.difference.count == 3 and other.difference.mean == pytest.approx(2.0)
    assert other.difference.sd == pytest.approx(0, abs=1e-9) and other.classes["ball"].mean == pytest.approx(2.0)
    assert first.at_edge and not other.at_edge
    lines = comparison.table([first, other]).splitlines()
    assert lines[2].split()[:6] == ["other", "0.2", "3", "43.00", "1.00", "+2.00"]
