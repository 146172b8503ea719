"""Look at topics: the words and output formats of `ros2 topic`.

examples:
  vla-ros topic list -t
  vla-ros topic echo /progress --field steps_to_go
  vla-ros topic echo /camera/front/image_raw --no-arr --once
  vla-ros topic hz /joint_states
  vla-ros topic pub --once /instruction vla_ros/msg/Instruction "{text: push the red cube to the left, mode: 0}"
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vla_ros.cli import graph, topic_stream

if TYPE_CHECKING:
    from rclpy.node import Node


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One verb each."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|info|echo|hz|pub")
    listing = verbs.add_parser("list", help="all topics")
    listing.add_argument("-t", "--show-types", action="store_true", help="with their types")
    listing.add_argument("-c", "--count-topics", action="store_true", help="only their number")
    listing.add_argument("--include-hidden-topics", action="store_true", help="also those with _ in front")
    listing.set_defaults(verb_function=list_topics)
    info = verbs.add_parser("info", help="type, publishers and subscriptions of a topic")
    info.add_argument("topic")
    info.add_argument("-v", "--verbose", action="store_true", help="every endpoint with its node and QoS")
    info.set_defaults(verb_function=show_info)
    topic_stream.add_verbs(verbs)


def run(args: argparse.Namespace) -> int:
    """Runs the verb on a node of its own."""
    with graph.hidden_node() as node:
        return int(args.verb_function(node, args) or 0)


def list_topics(node: Node, args: argparse.Namespace) -> None:
    """`topic list`."""
    found = graph.settled(lambda: sorted(node.get_topic_names_and_types()))
    shown = [(name, types) for name, types in found if args.include_hidden_topics or not graph.is_hidden(name)]
    if args.count_topics:
        print(len(shown))
        return
    for name, types in shown:
        print(f"{name} [{', '.join(types)}]" if args.show_types else name)


def show_info(node: Node, args: argparse.Namespace) -> None:
    """`topic info`."""
    topic = graph.absolute(args.topic)
    kind = graph.topic_type(node, topic)
    graph.settled(lambda: (node.count_publishers(topic), node.count_subscribers(topic)))
    publishers = node.get_publishers_info_by_topic(topic)
    subscriptions = node.get_subscriptions_info_by_topic(topic)
    print(f"Type: {kind}\n")
    print(f"Publisher count: {len(publishers)}\n")
    if args.verbose:
        for endpoint in publishers:
            print(f"{describe_endpoint(endpoint)}\n")
    print(f"Subscription count: {len(subscriptions)}\n")
    if args.verbose:
        for endpoint in subscriptions:
            print(f"{describe_endpoint(endpoint)}\n")


def describe_endpoint(endpoint: Any) -> str:
    """One publisher or subscription in lines, as `ros2 topic info -v`."""
    qos = endpoint.qos_profile
    kind = getattr(endpoint.endpoint_type, "name", str(endpoint.endpoint_type))
    return "\n".join(
        [
            f"Node name: {endpoint.node_name}",
            f"Node namespace: {endpoint.node_namespace}",
            f"Topic type: {endpoint.topic_type}",
            f"Endpoint type: {kind}",
            f"GID: {'.'.join(f'{byte:02x}' for byte in endpoint.endpoint_gid)}",
            "QoS profile:",
            f"  Reliability: {qos.reliability.name}",
            f"  History (Depth): {qos.history.name} ({qos.depth})",
            f"  Durability: {qos.durability.name}",
            f"  Lifespan: {seconds(qos.lifespan)}",
            f"  Deadline: {seconds(qos.deadline)}",
            f"  Liveliness: {qos.liveliness.name}",
            f"  Liveliness lease duration: {seconds(qos.liveliness_lease_duration)}",
        ]
    )


def seconds(duration: Any) -> str:
    """A QoS duration; DDS' longest one means no limit, and so does an unset one."""
    nanoseconds = 0 if duration is None else duration.nanoseconds
    return f"{nanoseconds} nanoseconds" if 0 < nanoseconds < 2**63 - 1 - 10**9 else "Infinite"
