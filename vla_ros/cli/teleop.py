"""A person moves the arm, through the safety filter, and records demonstrations.

examples:
  vla-ros teleop keyboard                                        arrow keys; the space bar stands still
  vla-ros teleop gamepad --record 'push the red cube to the left'    ENTER begins, y success, n failure, x discard
  vla-ros teleop leaders --robot aloha --record 'fold the cloth'     ALOHA's leader arms; c lets go
  vla-ros teleop leaders --robot aloha --calibrate               open and close both leaders' grippers, then Ctrl-C
  vla-ros teleop joint_states --robot aloha --config my_leader.yaml  any topic of joint states
  vla-ros teleop record --record 'push the red cube to the left'     only records: the device's node runs elsewhere

The person acts while an instruction runs: with --record in each demonstration, else whenever a task or practice runs.
Launched with `policy:=none judge:=none` nobody else moves the arm. --sim-time is for a simulated arm, at real_time_factor 1.
Settings: config/teleop.
"""

from __future__ import annotations

import argparse
import json

from vla_ros import embedded
from vla_ros.cli.graph import add_namespace
from vla_ros.errors import VlaRosError

DEVICES = ("keyboard", "gamepad", "leaders", "joint_states", "record")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Device and options."""
    parser.add_argument("device", choices=DEVICES, help="what the person uses; record: only the keys of --record")
    parser.add_argument("--robot", default="panda", help="contract: name in config/robots or a path (panda)")
    parser.add_argument("--config", default="", help="of the device: name in config/teleop or a path (the device's name)")
    parser.add_argument("--record", metavar="INSTRUCTION", help="record demonstrations of this ('': what the cell lays out)")
    parser.add_argument("--time-limit", type=float, default=60.0, metavar="S", help="of a demonstration (60)")
    parser.add_argument("--calibrate", action="store_true", help="send nothing and tell the ranges of the leaders' grippers")
    parser.add_argument("--sim-time", action="store_true", help="follow /clock")
    add_namespace(parser)


def run(args: argparse.Namespace) -> int:
    """teleop_node with these settings.

    Raises:
        VlaRosError: options that do not go together.
    """
    if args.device == "record" and args.record is None:
        raise VlaRosError("teleop record: --record is missing, expected an instruction ('' for what the cell lays out)")
    if args.calibrate and args.device not in ("leaders", "joint_states"):
        raise VlaRosError(f"teleop {args.device}: --calibrate: expected with leaders or joint_states, which have grippers")
    embedded.activate()
    from vla_ros.nodes import teleop_node

    values = {
        "source": "none" if args.device == "record" else args.device, "robot": args.robot, "config": args.config,
        "record": args.record is not None, "instruction": args.record or "", "time_limit": args.time_limit,
        "calibrate": args.calibrate, "use_sim_time": args.sim_time,
    }  # fmt: skip
    # Values are YAML, which JSON is: an instruction may look like a number or have a colon in it.
    words = [word for key, value in values.items() for word in ("-p", f"{key}:={json.dumps(value)}")]
    if args.namespace:  # what a contract calls by an absolute name is the cell's own, as in the launch files
        words += ["-r", f"__ns:={args.namespace}", "-r", "/joint_states:=joint_states", "-r", "/clock:=clock"]
    return teleop_node.main(["--ros-args", *words])
