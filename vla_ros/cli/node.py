"""Look at nodes: the words and output formats of `ros2 node` (to start one: `vla-ros exec`).

examples:
  vla-ros node list
  vla-ros node info /safety_node
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vla_ros.cli import graph

if TYPE_CHECKING:
    from rclpy.node import Node

Endpoints = list[tuple[str, list[str]]]
FEEDBACK = "/_action/feedback"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One verb each."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|info")
    listing = verbs.add_parser("list", help="all nodes")
    listing.add_argument("-a", "--all", action="store_true", help="also those with _ in front")
    listing.add_argument("-c", "--count-nodes", action="store_true", help="only their number")
    listing.set_defaults(verb_function=list_nodes)
    info = verbs.add_parser("info", help="topics, services and actions of a node")
    info.add_argument("node")
    info.add_argument("--include-hidden", action="store_true", help="also names with _ in front")
    info.set_defaults(verb_function=show_info)


def run(args: argparse.Namespace) -> int:
    """Runs the verb on a node of its own."""
    with graph.hidden_node() as node:
        return int(args.verb_function(node, args) or 0)


def list_nodes(node: Node, args: argparse.Namespace) -> None:
    """`node list`."""
    names = graph.settled(lambda: graph.full_node_names(node))
    shown = [name for name in names if args.all or not graph.is_hidden(name)]
    print(len(shown) if args.count_nodes else "\n".join(shown))


def show_info(node: Node, args: argparse.Namespace) -> None:
    """`node info`."""
    name, namespace = graph.awaited_node(node, args.node)

    def look() -> dict[str, Endpoints]:
        topics_in = node.get_subscriber_names_and_types_by_node(name, namespace)
        topics_out = node.get_publisher_names_and_types_by_node(name, namespace)
        return {
            "Subscribers": topics_in,
            "Publishers": topics_out,
            "Service Servers": node.get_service_names_and_types_by_node(name, namespace),
            "Service Clients": node.get_client_names_and_types_by_node(name, namespace),
            # The protocol tells servers from clients: a server publishes the feedback, a client subscribes to it.
            "Action Servers": actions(topics_out),
            "Action Clients": actions(topics_in),
        }

    print(graph.absolute(args.node))
    for title, endpoints in graph.settled(look).items():
        print(f"  {title}:")
        for endpoint, types in sorted(endpoints):
            if args.include_hidden or not graph.is_hidden(endpoint):
                print(f"    {endpoint}: {', '.join(types)}")


def actions(topics: Any) -> Endpoints:
    """Actions among topics, recognised by their feedback: name and type."""
    found = []
    for name, types in topics:
        if name.endswith(FEEDBACK):
            found.append((name.removesuffix(FEEDBACK), [each.removesuffix("_FeedbackMessage") for each in types]))
    return found
