"""policy_node that was started anew into a lock-stepped simulation, where time stands still until it has answered."""

from __future__ import annotations

import checkpoints
import pytest
import rclpy
from checkpoints import Tiny, tiny_checkpoints  # noqa: F401
from node_process import NodeProcess
from test_policy_node import Cell
from vla_ros.msg import Instruction, Observation

from vla_ros.nodes import convert, qos


@pytest.mark.parametrize("mode", [Instruction.RUN, Instruction.HOME])
def test_before_simulated_time_is_heard_an_observation_is_answered(tiny: Tiny, mode: int) -> None:
    rclpy.init()
    cell = Cell()
    cell.observations = cell.create_publisher(Observation, "/observation", qos.observations(True, 1))
    with NodeProcess("policy_node", policy=tiny.policy, use_sim_time="true") as process:
        counts = (cell.observations.get_subscription_count, cell.instructions.get_subscription_count)
        cell.until(lambda: all(count() for count in counts), "the node", 60.0)
        cell.instruct(checkpoints.TEXT, mode=mode)
        stamp = cell.look()
        cell.until(lambda: cell.chunks, "an answer without a clock")
        status, output = process.end()
    first = convert.chunk(cell.chunks[0]).stamp
    cell.destroy_node()
    rclpy.shutdown()
    assert stamp < first < stamp + 1.0, "the rows are due after the observation, not after time 0"
    assert status == 0, output
