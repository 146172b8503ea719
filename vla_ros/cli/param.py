"""Read and set parameters of running nodes: the words and output formats of `ros2 param`.

examples:
  vla-ros param list /policy_node
  vla-ros param get /policy_node temperature
  vla-ros param set /policy_node temperature 0.5
  vla-ros param dump /safety_node > safety.yaml
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import yaml

from vla_ros.cli import graph
from vla_ros.errors import VlaRosError

if TYPE_CHECKING:
    from rclpy.node import Node

# rcl_interfaces/msg/ParameterType: name in sentences, and the field of ParameterValue
KINDS = {
    1: ("Boolean", "bool_value"),
    2: ("Integer", "integer_value"),
    3: ("Double", "double_value"),
    4: ("String", "string_value"),
    5: ("Byte", "byte_array_value"),
    6: ("Boolean", "bool_array_value"),
    7: ("Integer", "integer_array_value"),
    8: ("Double", "double_array_value"),
    9: ("String", "string_array_value"),
}
FIRST_ARRAY = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One verb each."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|get|set|dump")
    listing = verbs.add_parser("list", help="names of a node's parameters, or of all nodes'")
    listing.add_argument("node", nargs="?")
    listing.set_defaults(verb_function=list_parameters)
    get = verbs.add_parser("get", help="value of a parameter")
    get.add_argument("node")
    get.add_argument("name")
    get.add_argument("--hide-type", action="store_true", help="only the value")
    get.set_defaults(verb_function=get_parameter)
    set_ = verbs.add_parser("set", help="change a parameter")
    set_.add_argument("node")
    set_.add_argument("name")
    set_.add_argument("value", help="YAML: 1, 0.5, true, text, [1.0, 2.0]")
    set_.set_defaults(verb_function=set_parameter)
    dump = verbs.add_parser("dump", help="all parameters of a node as a parameter file")
    dump.add_argument("node")
    dump.set_defaults(verb_function=dump_parameters)


def run(args: argparse.Namespace) -> int:
    """Runs the verb on a node of its own."""
    with graph.hidden_node() as node:
        return int(args.verb_function(node, args) or 0)


def ask(node: Node, target: str, what: str, **fields: Any) -> Any:
    """One call of a node's parameter services, such as GetParameters."""
    service = graph.interface("srv", f"rcl_interfaces/srv/{what}")
    snake = "".join(f"_{char.lower()}" if char.isupper() else char for char in what).lstrip("_")
    return graph.call(node, service, f"{graph.absolute(target)}/{snake}", service.Request(**fields))


def names_of(node: Node, target: str) -> list[str]:
    """Names of all parameters of a node, sorted."""
    return sorted(ask(node, target, "ListParameters").result.names)


def values_of(node: Node, target: str, names: list[str]) -> list[tuple[int, Any]]:
    """Type and value of each parameter; type 0 is one that is not set."""
    values = ask(node, target, "GetParameters", names=names).values
    if len(values) != len(names):
        return [(0, None)] * len(names)
    return [(value.type, plain(value)) for value in values]


def plain(value: Any) -> Any:
    """Python value of a rcl_interfaces/msg/ParameterValue."""
    if value.type not in KINDS:
        return None
    content = getattr(value, KINDS[value.type][1])
    if value.type < FIRST_ARRAY:
        return content
    return content.tolist() if hasattr(content, "tolist") else list(content)  # numpy scalars are not YAML


def message(value: Any) -> Any:
    """rcl_interfaces/msg/ParameterValue of a Python value.

    Raises:
        VlaRosError: not a parameter's kind of value, or a list of mixed kinds.
    """
    result = graph.interface("msg", "rcl_interfaces/msg/ParameterValue")()
    singles: dict[type, int] = {bool: 1, int: 2, float: 3, str: 4}
    if type(value) in singles:
        result.type = singles[type(value)]
    elif isinstance(value, list) and value and type(value[0]) in singles and len({type(each) for each in value}) == 1:
        result.type = FIRST_ARRAY + singles[type(value[0])]
    else:
        raise VlaRosError(f"{value!r} is not a parameter value; expected bool, int, float, text, or a list of one kind")
    setattr(result, KINDS[result.type][1], value)
    return result


def list_parameters(node: Node, args: argparse.Namespace) -> None:
    """`param list`."""
    if args.node:
        graph.awaited_node(node, args.node)
        for name in names_of(node, args.node):
            print(f"  {name}")
        return
    for target in graph.settled(lambda: graph.full_node_names(node)):
        if not graph.is_hidden(target):
            print(f"{target}:")
            for name in names_of(node, target):
                print(f"  {name}")


def get_parameter(node: Node, args: argparse.Namespace) -> int:
    """`param get`."""
    graph.awaited_node(node, args.node)
    ((kind, value),) = values_of(node, args.node, [args.name])
    if kind not in KINDS:
        known = ", ".join(names_of(node, args.node))
        raise VlaRosError(f"parameter {args.name!r} of {graph.absolute(args.node)} is not set; there are: {known}")
    if args.hide_type:
        print(value)
    else:
        print(f"{KINDS[kind][0]} value{'s are' if kind >= FIRST_ARRAY else ' is'}: {value}")
    return 0


def set_parameter(node: Node, args: argparse.Namespace) -> int:
    """`param set`."""
    graph.awaited_node(node, args.node)
    try:
        value = yaml.safe_load(args.value)
    except yaml.YAMLError as error:
        raise VlaRosError(f"value {args.value!r} is not YAML: {error}") from error
    cls = graph.interface("msg", "rcl_interfaces/msg/Parameter")
    request = [cls(name=args.name, value=message(value))]
    (result,) = ask(node, args.node, "SetParameters", parameters=request).results
    if result.successful:
        print(f"Set parameter successful{': ' + result.reason if result.reason else ''}")
        return 0
    print(f"Setting parameter failed{': ' + result.reason if result.reason else ''}")
    return 1


def dump_parameters(node: Node, args: argparse.Namespace) -> None:
    """`param dump`: dotted names become nested mappings."""
    graph.awaited_node(node, args.node)
    names = names_of(node, args.node)
    tree: dict[str, Any] = {}
    for name, (_kind, value) in zip(names, values_of(node, args.node, names), strict=True):
        *parents, last = name.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    content = {graph.absolute(args.node): {"ros__parameters": tree}}
    print(yaml.safe_dump(content, default_flow_style=False, allow_unicode=True), end="")
