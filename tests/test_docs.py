"""The examples in the documentation do what they say."""

import doctest
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_python_examples():
    failed, tried = doctest.testfile(str(ROOT / "docs" / "python.md"), module_relative=False)
    assert tried > 20 and not failed
