"""Which of several processes runs a test: a file is whole in one, and so are all captures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import whole

ROOT = Path(__file__).parents[1]


def test_the_tests_of_a_file_run_in_one_process() -> None:
    files = ["tests/test_hbone_windows.py", "tests/test_hbone_frames.py"]
    options = ["-v", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    ran = set(re.findall(r"\[(gw\d)\].* PASSED (\S+?)::", done.stdout))
    assert sorted(file for _, file in ran) == sorted(files)
    assert len({process for process, _ in ran}) == 2


def test_all_captures_run_in_one_process() -> None:
    assert whole("tests/capture/test_a.py::test_b[c]") == "tests/capture"
    assert whole("tests/test_a.py::test_b[c::d]") == "tests/test_a.py"
