"""Two thousand damaged ONNX files: each gives a model or a `ConvlayersError`, never a crash, a hang or another exception."""

import re
import subprocess
import sys

from conftest import ROOT

MUTATIONS = 2000


def test_damaged_files_give_a_model_or_an_error_of_ours():
    command = [sys.executable, str(ROOT / "tools" / "fuzz.py"), "--mutations", str(MUTATIONS), "--seed", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    # The report names each mutant and says how to repeat it.
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    read = int(re.search(r"(\d+) import fine", done.stdout)[1])
    assert done.stdout.startswith(f"{MUTATIONS} mutants: ")
    assert MUTATIONS / 5 < read < MUTATIONS / 2, "the damage is neither all too great nor none"
