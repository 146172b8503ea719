"""Chunks of two arms that join without a jump: policy_node tells the network what the arms execute until it has answered."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import checkpoints
import numpy as np
import rclpy
from node_process import NodeProcess, spin_until
from test_policy_node_aloha import FITS, Cell
from vla_ros.msg import Instruction


def test_a_chunk_goes_on_from_the_running_one(tmp_path: Path) -> None:
    """The rows that are executed until the answer comes are the same in both chunks, at the same absolute times."""
    most = 40
    folder = checkpoints.save(tmp_path, **FITS, head="laplace", prefix=most)
    rclpy.init()
    cell = Cell()
    judge = NodeProcess("progress_node", robot="aloha", judge=checkpoints.save(tmp_path / "judge", threshold=0.5, **FITS))
    with NodeProcess("policy_node", robot="aloha", policy=folder), judge:
        counts = (cell.observations.get_subscription_count, cell.instructions.get_subscription_count)
        spin_until(cell.executor_, lambda: all(count() == 2 for count in counts), "the nodes", 60.0)
        cell.instructions.publish(Instruction(text=checkpoints.TEXT))  # sampled: no two answers are alike
        cell.settle()
        joined = 0
        chunks = [cell.answer(k)[0] for k in range(6)]
        for before, after in pairwise(chunks):
            shift = round((after.stamp - before.stamp) / 0.02)
            same = [k for k in range(min(100 - shift, 100)) if np.array_equal(before.rows[shift + k], after.rows[k])]
            assert same == list(range(len(same))), "from the first row on, without a gap"
            assert len(same) <= most
            joined += len(same) > 0
    cell.destroy_node()
    rclpy.shutdown()
    assert joined >= 3, "but for chunks that had run out on a busy machine"
