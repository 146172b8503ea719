"""Look at actions and send goals: the words and output formats of `ros2 action`. Ctrl-C cancels the goal.

examples:
  vla-ros action list -t
  vla-ros action send_goal /run_task vla_ros/action/RunTask "{instruction: push the red cube to the left}" --feedback
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vla_ros.cli import graph, message_yaml
from vla_ros.cli.node import actions
from vla_ros.errors import VlaRosError

if TYPE_CHECKING:
    from rclpy.node import Node

STATUS = {0: "UNKNOWN", 1: "ACCEPTED", 2: "EXECUTING", 3: "CANCELING", 4: "SUCCEEDED", 5: "CANCELED", 6: "ABORTED"}
SUCCEEDED = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One verb each."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|send_goal")
    listing = verbs.add_parser("list", help="all actions")
    listing.add_argument("-t", "--show-types", action="store_true", help="with their types")
    listing.set_defaults(verb_function=list_actions)
    goal = verbs.add_parser("send_goal", help="send a goal and wait for its result")
    goal.add_argument("action")
    goal.add_argument("type", help="package/action/Name")
    goal.add_argument("values", nargs="?", default="{}", help="YAML mapping of the goal's fields")
    goal.add_argument("-f", "--feedback", action="store_true", help="print feedback")
    goal.set_defaults(verb_function=send_goal)


def run(args: argparse.Namespace) -> int:
    """Runs the verb on a node of its own."""
    with graph.hidden_node() as node:
        return int(args.verb_function(node, args) or 0)


def list_actions(node: Node, args: argparse.Namespace) -> None:
    """`action list`."""
    for name, types in graph.settled(lambda: sorted(actions(node.get_topic_names_and_types()))):
        print(f"{name} [{', '.join(types)}]" if args.show_types else name)


def send_goal(node: Node, args: argparse.Namespace) -> int:
    """`action send_goal`; status 1 when the goal is rejected or does not succeed."""
    from rclpy.action import ActionClient

    name = graph.absolute(args.action)
    cls = graph.interface("action", args.type)
    goal = message_yaml.fill(cls.Goal(), args.values)
    client = ActionClient(node, cls, name)
    try:
        print("Waiting for an action server to become available...", flush=True)
        if not client.wait_for_server(timeout_sec=graph.PATIENCE):
            raise VlaRosError(f"action {name} has no server (waited {graph.PATIENCE:.0f} s); see `vla-ros action list`")
        print(f"Sending goal:\n{indented(goal)}", flush=True)
        sending = client.send_goal_async(goal, feedback_callback=show_feedback if args.feedback else None)
        graph.spin_until(node, sending.done)
        handle = sending.result()
        if not handle.accepted:
            print("Goal was rejected.")
            return 1
        print(f"Goal accepted with ID: {bytes(handle.goal_id.uuid).hex()}\n", flush=True)
        result = handle.get_result_async()
        try:
            graph.spin_until(node, result.done)
        except KeyboardInterrupt:
            cancel(node, handle)
            raise
        print(f"Result:\n{indented(result.result().result)}")
        status = result.result().status
        print(f"Goal finished with status: {STATUS.get(status, status)}")
        return 0 if status == SUCCEEDED else 1
    finally:
        client.destroy()


def cancel(node: Node, handle: Any) -> None:
    """Asks the server to cancel, and says what it answered."""
    print("Canceling goal...", flush=True)
    canceling = handle.cancel_goal_async()
    if not graph.spin_until(node, canceling.done, graph.PATIENCE):
        raise VlaRosError("the server did not answer the cancel request")
    print("Goal canceled." if canceling.result().goals_canceling else "The server refused to cancel the goal.")


def show_feedback(message: Any) -> None:
    """One feedback message."""
    print(f"Feedback:\n{indented(message.feedback)}", flush=True)


def indented(message: Any) -> str:
    """A message as YAML, four spaces in."""
    return "".join(f"    {line}\n" for line in message_yaml.to_yaml(message).splitlines())
