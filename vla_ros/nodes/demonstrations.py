"""A person records demonstrations with single keys: begin, success, failure, discard. trainer_node is asked for an episode, which
it runs and records as any other; the verdict is the operator's label on it. Everything runs on the node's executor thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rclpy.action import ActionClient
from rclpy.node import Node
from std_srvs.srv import Trigger

from vla_ros.action import RunTask
from vla_ros.msg import Episode, Instruction, TrainingState
from vla_ros.nodes import qos
from vla_ros.srv import LabelEpisode

VERDICTS = {"y": "success", "n": "failure", "x": "aborted"}
BEGIN, QUIT = "enter", "q"
HELP = "y success, n failure, x discard"
NOTE = "demonstration"


class Demonstrations:
    """`state` tells what goes on, and which keys do something.

    Args:
        instruction: what is demonstrated; empty: what the cell lays out.
        time_limit: s, after which an episode ends and waits for the verdict.
    """

    def __init__(self, node: Node, instruction: str, time_limit: float) -> None:
        self._node, self._goal = node, RunTask.Goal(instruction=instruction, time_limit=time_limit)
        self._run = ActionClient(node, RunTask, "run_task")
        self._ready = node.create_client(Trigger, "trainer/ready")
        self._label = node.create_client(LabelEpisode, "episodes/label")
        node.create_subscription(TrainingState, "training/state", self._on_training, qos.STATUS)
        node.create_subscription(Instruction, "instruction", self._on_instruction, qos.STATUS)
        node.create_subscription(Episode, "training/episode", self._on_episode, qos.RECORD)
        self._wanted = ""  # what a person is asked for
        self._handle: Any = None  # of the goal, from its acceptance to its result
        self._asked = False  # a goal is under way
        self._runs = False  # its episode does
        self._ended: Any = None  # result that has no verdict yet
        self._verdict = ""
        self._by_hand: dict[str, int] = {}  # steps that a person acted in, by episode
        self.kept = {"success": 0, "failure": 0, "aborted": 0}

    @property
    def busy(self) -> bool:
        return self._asked or self._ended is not None

    @property
    def state(self) -> str:
        if self._ended is not None:
            return f"ended by {self._ended.termination_reason}: {HELP}"
        if self._runs:
            return f"RECORDING: {HELP}"
        if self._wanted:
            return f"{self._wanted.split(', then call')[0]}, then ENTER"
        if self._asked:
            return "the arm goes home"
        counts = ", ".join(f"{count} {name}" for name, count in self.kept.items() if count)
        return f"ENTER: go home and begin; q: quit{f' ({counts})' if counts else ''}"

    def press(self, key: str) -> bool:
        """Whether it is a key of this."""
        if key == BEGIN:
            self._begin()
        elif key in VERDICTS and (self._runs or self._ended is not None):
            self._judge(VERDICTS[key])
        else:
            return key in VERDICTS
        return True

    def _begin(self) -> None:
        if self._asked and self._wanted:
            self._ready.call_async(Trigger.Request())
        elif not self.busy:
            if not self._run.server_is_ready():
                self._warn("nobody offers /run_task; is trainer_node running?")
                return
            self._verdict, self._asked = "", True
            self._run.send_goal_async(self._goal).add_done_callback(self._on_accepted)

    def _on_accepted(self, future: Any) -> None:
        handle = future.result()
        if not handle.accepted:
            self._asked = False
            self._warn("refused: another goal is running")
            return
        self._handle = handle
        handle.get_result_async().add_done_callback(self._on_result)

    def _on_result(self, future: Any) -> None:
        result = future.result().result
        self._handle, self._asked, self._runs = None, False, False
        if not result.episode_id:
            self._warn(f"not recorded: {result.termination_reason}")
            return
        self._ended = result
        if self._verdict:
            self._send_label()

    def _judge(self, verdict: str) -> None:
        if self._verdict:
            return
        self._verdict = verdict
        if self._ended is not None:
            self._send_label()
        elif self._handle is not None:
            self._handle.cancel_goal_async()

    def _send_label(self) -> None:
        request = LabelEpisode.Request(episode_id=self._ended.episode_id, outcome=self._verdict, note=NOTE)
        self._label.call_async(request).add_done_callback(self._on_labelled)

    def _on_labelled(self, future: Any) -> None:
        answer, episode = future.result(), self._ended
        if not answer.success:
            self._verdict = ""
            self._warn(f"not labelled: {answer.message}")
            return
        hand = f", {self._by_hand[episode.episode_id]} by hand" if episode.episode_id in self._by_hand else ""
        self.kept[self._verdict] += 1
        self._node.get_logger().info(f"{Path(episode.file).name}: {self._verdict}, {episode.steps} steps{hand}")
        self._ended, self._verdict = None, ""

    def _warn(self, text: str) -> None:
        self._node.get_logger().warning(text)

    def _on_training(self, message: TrainingState) -> None:
        self._wanted = message.message if message.phase in ("reset_wanted", "stopped") and self._asked else ""

    def _on_instruction(self, message: Instruction) -> None:
        self._runs = self._asked and bool(message.episode_id)

    def _on_episode(self, message: Episode) -> None:
        self._by_hand[message.id] = message.corrected_steps
