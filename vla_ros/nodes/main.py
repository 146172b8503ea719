"""How every node process starts and ends: one clear line for bad input, exit status 2; Ctrl-C is a normal end."""

from __future__ import annotations

import sys
from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from vla_ros.errors import VlaRosError


def run(create: Callable[[], Node], args: list[str] | None = None, threads: int = 1) -> int:
    """Create the node, spin it until shutdown, return the exit status. `threads` > 1 spins a MultiThreadedExecutor."""
    rclpy.init(args=args)
    node: Node | None = None
    try:
        node = create()
        if threads > 1:
            from rclpy.executors import MultiThreadedExecutor

            executor = MultiThreadedExecutor(num_threads=threads)
            executor.add_node(node)
            executor.spin()
        else:
            rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except VlaRosError as error:
        print(f"{node.get_name() if node else 'error'}: {error}", file=sys.stderr)
        return 2
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
