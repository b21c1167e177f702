"""F falls where a network generalises, and does not where it only memorises."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.reproductions import grokking


@pytest.fixture(scope="module")
def course():
    (course,) = grokking.reproduce(grokking.SOONER, (1,), 20, 40_000)["sum"]
    return course


def test_the_network_memorises_and_then_generalises(course):
    assert course.test[course.memorised] < 0.5
    assert course.memorised < course.passes(0.5) < course.passes(0.9)
    assert course.test[-1] > 0.99


def test_f_falls_when_the_network_generalises(course):
    start, end = course.window
    assert course.fall > 0.05
    assert course.features[start] - course.features[end] > 0.06 * course.features[start]
    assert course.sharp > 2
    assert course.explained > 0.9


def test_f_does_not_fall_in_a_network_that_only_memorises():
    setting = replace(grokking.SOONER, decay=0.0, share=0.3)
    (course,) = grokking.reproduce(setting, (1,), 20, 40_000)["sum"]
    assert course.train[-1] > 0.99
    assert course.test[-1] < 0.1
    assert course.window is None
    assert course.sharp == 0
    assert course.fall < 0.02


def test_transitions_are_read_from_accuracies():
    test = np.array([0.0, 0.2, 0.05, 0.3, 0.95, 1.0])
    train = np.array([0.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    features = np.array([90.0, 100.0, 99.0, 90.0, 80.0, 79.0])
    course = grokking.Course(np.arange(6.0), train, test, features, 1.0)
    assert course.memorised == 1
    assert course.passes(0.5) == 4
    assert course.window == (2, 4)
    assert course.fall == pytest.approx(0.21)
    assert course.sharp == pytest.approx((19 / 2) / (2 / 2))
