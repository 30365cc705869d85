"""Processes of one run share a task of lm-eval, and leave nothing to be swept up twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from zoo.command import environment


def test_two_processes_share_the_requests(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = Path(__file__).with_name("harness_processes_run.py")
    ended = subprocess.run(
        [*command, str(script), str(tmp_path)], env=environment(), capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    told = [json.loads((tmp_path / f"told-{rank}.json").read_text()) for rank in range(2)]
    answers = [[-float(n % 6), False] for n in range(7)]
    files = ["rank-0.requests.jsonl", "rank-1.requests.jsonl"]
    # Every answer is everywhere once a process has its own, and is on disk by then.
    assert told[0]["first"] == [answers, 3, files]
    assert told[1]["first"] == [answers, 3, files]
    assert [own["again"] for own in told] == [[answers, 0, files]] * 2
