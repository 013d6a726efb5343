from __future__ import annotations

from loadtest import machine


def test_the_circumstances_name_machine_versions_date_and_command() -> None:
    found = machine.describe(["/somewhere/loadtest/limit.py", "model/my digits"])
    assert found["command"] == "python -m loadtest.limit 'model/my digits'"
    assert "cores of" in found["machine"]
    assert "Python 3." in found["versions"]
    assert found["date"].endswith("UTC")
    assert found["commit"]
    assert machine.lines(found).count("\n") == len(found) - 1
