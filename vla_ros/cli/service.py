"""Look at services and call them: the words and output formats of `ros2 service`.

examples:
  vla-ros service list -t
  vla-ros service call /cell/reset vla_ros/srv/ResetCell "{seed: 3, split: train, task: push}"
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vla_ros.cli import graph, message_yaml

if TYPE_CHECKING:
    from rclpy.node import Node

CALL_PATIENCE = 60.0  # s; a reset or a swap may take its time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One verb each."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|type|call")
    listing = verbs.add_parser("list", help="all services")
    listing.add_argument("-t", "--show-types", action="store_true", help="with their types")
    listing.add_argument("--include-hidden-services", action="store_true", help="also those with _ in front")
    listing.set_defaults(verb_function=list_services)
    kind = verbs.add_parser("type", help="type of a service")
    kind.add_argument("service")
    kind.set_defaults(verb_function=show_type)
    call = verbs.add_parser("call", help="call a service")
    call.add_argument("service")
    call.add_argument("type", help="package/srv/Name")
    call.add_argument("values", nargs="?", default="{}", help="YAML mapping of the request's fields")
    call.add_argument("--timeout", type=float, default=CALL_PATIENCE, metavar="S", help="wait for the answer (60)")
    call.set_defaults(verb_function=call_service)


def run(args: argparse.Namespace) -> int:
    """Runs the verb on a node of its own."""
    with graph.hidden_node() as node:
        return int(args.verb_function(node, args) or 0)


def list_services(node: Node, args: argparse.Namespace) -> None:
    """`service list`."""
    for name, types in graph.settled(lambda: sorted(node.get_service_names_and_types())):
        if args.include_hidden_services or not graph.is_hidden(name):
            print(f"{name} [{', '.join(types)}]" if args.show_types else name)


def show_type(node: Node, args: argparse.Namespace) -> None:
    """`service type`."""
    name = graph.absolute(args.service)
    types = graph.awaited(
        lambda: dict(node.get_service_names_and_types()).get(name),
        f"service {name} not found; see `vla-ros service list`",
    )
    print("\n".join(types))


def call_service(node: Node, args: argparse.Namespace) -> None:
    """`service call`."""
    cls = graph.interface("srv", args.type)
    request = message_yaml.fill(cls.Request(), args.values)
    print(f"requester: making request: {request!r}\n", flush=True)
    response = graph.call(node, cls, graph.absolute(args.service), request, args.timeout)
    print(f"response:\n{response!r}\n")
