"""How every node process starts and ends: one clear line for bad input, exit status 2; Ctrl-C is a normal end."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import sys
from collections.abc import Callable
from typing import TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import Node

from vla_ros.errors import VlaRosError

AnyNode = TypeVar("AnyNode", bound=Node)


def spin_threads(node: Node) -> None:
    """For nodes whose actions wait while their subscriptions are served."""
    executor = MultiThreadedExecutor(num_threads=4)
    executor.add_node(node)
    executor.spin()


def spin_beside(node: Node) -> None:
    """For a thread of a program that asks a graph: callbacks until shutdown, which is a normal end."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    with contextlib.suppress(ExternalShutdownException, KeyboardInterrupt):
        executor.spin()


def run(create: Callable[[], AnyNode], args: list[str] | None = None, spin: Callable[[AnyNode], None] = rclpy.spin) -> int:
    """Create the node, spin it until shutdown, return the exit status."""
    faulthandler.enable()  # a crash in a library tells which of our lines called it
    rclpy.init(args=args)
    node: AnyNode | None = None
    try:
        node = create()
        # What was imported and built so far stays. Looking at all of it again took 0.4 s of one answer in policy_node.
        gc.collect()
        gc.freeze()
        spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except VlaRosError as error:
        print(f"{node.get_name() if node else 'error'}: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if rclpy.ok():
            raise
        # A callback that was running when the context was shut down found its handles gone: an end, but not a silent one.
        print(f"{node.get_name() if node else 'node'}: interrupted in a callback: {error!r}", file=sys.stderr)
        return 0
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
