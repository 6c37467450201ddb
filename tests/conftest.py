"""pytest runs the test programs' functions as they run themselves (tests/harness.py): each in an empty folder."""

import pytest


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
