"""`topic echo`, `topic hz` and `topic pub`: the verbs that take part in a topic."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from vla_ros.cli import graph, message_yaml
from vla_ros.errors import VlaRosError

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.qos import QoSProfile


def add_verbs(verbs: Any) -> None:
    """Adds the three verbs to `topic`'s subparsers."""
    echo_parser = verbs.add_parser("echo", help="print messages as YAML")
    echo_parser.add_argument("topic")
    echo_parser.add_argument("type", nargs="?", help="package/msg/Name; found out if not given")
    echo_parser.add_argument("--once", action="store_true", help="end after the first message")
    echo_parser.add_argument("--timeout", type=float, metavar="S", help="end with status 1 when no message came for S seconds")
    echo_parser.add_argument("--field", metavar="PATH", help="only this field, such as header.stamp or poses.0.position")
    echo_parser.add_argument("--no-arr", action="store_true", help="arrays as type and length")
    echo_parser.add_argument("--no-str", action="store_true", help="strings as their length")
    echo_parser.add_argument("-f", "--full-length", action="store_true", help="do not truncate arrays and strings")
    echo_parser.add_argument(
        "-l", "--truncate-length", type=int, default=message_yaml.TRUNCATE, metavar="N", help="truncate to N (128)"
    )
    echo_parser.set_defaults(verb_function=echo)
    hz_parser = verbs.add_parser("hz", help="rate of a topic")
    hz_parser.add_argument("topic")
    hz_parser.add_argument("-w", "--window", type=positive, default=10000, metavar="N", help="messages that count")
    hz_parser.set_defaults(verb_function=hz)
    pub_parser = verbs.add_parser("pub", help="publish a message")
    pub_parser.add_argument("topic")
    pub_parser.add_argument("type", help="package/msg/Name")
    pub_parser.add_argument("values", nargs="?", default="{}", help="YAML mapping of fields")
    pub_parser.add_argument("-r", "--rate", type=float, default=1.0, metavar="HZ")
    pub_parser.add_argument("-1", "--once", action="store_true", help="wait for a subscription, publish once, end")
    pub_parser.add_argument("-t", "--times", type=positive, metavar="N", help="end after N messages")
    pub_parser.add_argument("-w", "--wait-matching-subscriptions", type=int, metavar="N", help="wait for N subscriptions")
    pub_parser.set_defaults(verb_function=publish)


def positive(text: str) -> int:
    """A number of 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def matching_qos(node: Node, topic: str, depth: int = 10) -> QoSProfile:
    """What every present publisher can serve: reliable and transient local only if all of them are."""
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

    profiles = [endpoint.qos_profile for endpoint in node.get_publishers_info_by_topic(topic)]
    reliable = all(profile.reliability == ReliabilityPolicy.RELIABLE for profile in profiles)
    kept = bool(profiles) and all(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for profile in profiles)
    return QoSProfile(
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if kept else DurabilityPolicy.VOLATILE,
    )


def echo(node: Node, args: argparse.Namespace) -> int:
    """`topic echo`."""
    topic = graph.absolute(args.topic)
    kind = args.type or graph.topic_type(node, topic)
    cls = graph.interface("msg", kind)
    options = {
        "no_arr": args.no_arr,
        "no_str": args.no_str,
        "truncate": None if args.full_length else args.truncate_length,
    }
    received = 0
    failure: list[VlaRosError] = []

    def show(message: Any) -> None:
        nonlocal received
        if failure or (args.once and received):
            return
        try:
            value = message_yaml.field_of(message, args.field) if args.field else message
        except VlaRosError as error:
            failure.append(error)
            return
        print(f"{message_yaml.to_yaml(value, **options)}---", flush=True)
        received += 1

    node.create_subscription(cls, topic, show, matching_qos(node, topic))
    seen, since = 0, time.monotonic()

    def finished() -> bool:
        nonlocal seen, since
        if received != seen:
            seen, since = received, time.monotonic()
        silent = args.timeout is not None and time.monotonic() - since > args.timeout
        return bool(failure) or (args.once and received > 0) or silent

    graph.spin_until(node, finished)
    if failure:
        raise failure[0]
    if args.once and received:
        return 0
    print(f"no message on {topic} for {args.timeout} s", file=sys.stderr)
    return 1


def rate_report(intervals: deque[float]) -> str:
    """The lines of `ros2 topic hz`; intervals in s."""
    mean = sum(intervals) / len(intervals)
    deviation = math.sqrt(sum((each - mean) ** 2 for each in intervals) / len(intervals))
    rate = 1.0 / mean if mean > 0 else math.inf
    return (
        f"average rate: {rate:.3f}\n\tmin: {min(intervals):.3f}s max: {max(intervals):.3f}s "
        f"std dev: {deviation:.5f}s window: {len(intervals) + 1}"
    )


def hz(node: Node, args: argparse.Namespace) -> None:
    """`topic hz`: a report every second, until Ctrl-C. Messages are not deserialised, only counted."""
    topic = graph.absolute(args.topic)
    cls = graph.interface("msg", graph.topic_type(node, topic))
    intervals: deque[float] = deque(maxlen=args.window)
    latest = math.nan

    def count(_message: Any) -> None:
        nonlocal latest
        now = time.monotonic()
        if not math.isnan(latest):
            intervals.append(now - latest)
        latest = now

    node.create_subscription(cls, topic, count, matching_qos(node, topic), raw=True)
    reported = math.nan
    while True:
        graph.spin_until(node, lambda: False, patience=1.0)
        if intervals and latest != reported:
            print(rate_report(intervals), flush=True)
        else:
            print("no new messages", flush=True)
        reported = latest


def publish(node: Node, args: argparse.Namespace) -> None:
    """`topic pub`."""
    if args.rate <= 0:
        raise VlaRosError(f"--rate is {args.rate}, expected more than 0 [Hz]")
    topic = graph.absolute(args.topic)
    cls = graph.interface("msg", args.type)
    message = message_yaml.fill(cls(), args.values)
    publisher = node.create_publisher(cls, topic, 10)
    wanted = args.wait_matching_subscriptions
    if wanted is None:
        wanted = 1 if args.once else 0
    while publisher.get_subscription_count() < wanted:
        print(f"Waiting for at least {wanted} matching subscription(s)...", flush=True)
        graph.spin_until(node, lambda: publisher.get_subscription_count() >= wanted, patience=1.0)
    times = 1 if args.once else args.times
    print("publisher: beginning loop", flush=True)
    due = time.monotonic()
    sent = 0
    while times is None or sent < times:
        sent += 1
        print(f"publishing #{sent}: {message!r}\n", flush=True)
        publisher.publish(message)
        due += 1.0 / args.rate
        graph.spin_until(node, lambda: False, patience=max(0.0, due - time.monotonic()) if sent != times else 0.0)
    # The writer must live until its samples are acknowledged, or a reliable subscription misses the last one.
    graph.spin_until(node, lambda: False, patience=0.1)
