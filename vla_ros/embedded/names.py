"""ROS names: validation, expansion to full names, remapping, and the prefixes of their DDS topics."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_NODE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_FULL = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+\Z")
_GIVEN = re.compile(r"(~|~?/?[A-Za-z_{][A-Za-z0-9_{}]*(/[A-Za-z_{][A-Za-z0-9_{}]*)*)\Z")
_SUBSTITUTION = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True)
class Remap:
    """One `-r [node:][rostopic://|rosservice://]from:=to`; `__node` and `__ns` rename the node itself."""

    match: str
    replacement: str
    node: str = ""  # empty: every node
    kind: str = ""  # topic | service | empty: both


def node_error(name: str) -> str:
    """Why a node name is invalid; empty if it is not."""
    if not name:
        return "node name must not be empty"
    return "" if _NODE.match(name) else "node name must consist of letters, digits and '_' and not start with a digit"


def namespace_error(namespace: str) -> str:
    """Why a full namespace is invalid; empty if it is not."""
    if namespace == "/" or _FULL.match(namespace):
        return ""
    return "namespace must be '/' or parts of letters, digits and '_', each after a '/'"


def topic_error(name: str) -> str:
    """Why a topic or service name, as written in a program, is invalid; empty if it is not."""
    if not name:
        return "topic name must not be empty"
    if not _GIVEN.match(name) or "__" in name:
        return "topic name must be parts of letters, digits and '_' divided by '/', none starting with a digit"
    unknown = [word for word in _SUBSTITUTION.findall(name) if word not in ("node", "ns", "namespace")]
    return f"unknown substitution {unknown}" if unknown else ""


def join(namespace: str, name: str) -> str:
    """Full name of `name` inside `namespace`."""
    return f"{namespace.rstrip('/')}/{name}"


def expand(name: str, node: str, namespace: str) -> str:
    """Full name of a relative, private (`~`) or absolute name, before remapping."""
    words = {"node": node, "ns": namespace.lstrip("/"), "namespace": namespace.lstrip("/")}
    name = _SUBSTITUTION.sub(lambda found: words[found[1]], name)
    if name.startswith("~"):
        rest = name[1:].lstrip("/")
        own = join(namespace, node)
        return f"{own}/{rest}" if rest else own
    return name if name.startswith("/") else join(namespace, name)


def remap(full: str, kind: str, node: str, namespace: str, rules: Iterable[Remap]) -> str:
    """Apply the first rule that matches a full topic or service name of a node."""
    for rule in rules:
        if rule.match in ("__node", "__name", "__ns") or rule.node not in ("", node) or rule.kind not in ("", kind):
            continue
        if expand(rule.match, node, namespace) == full:
            return expand(rule.replacement, node, namespace)
    return full


def renamed(node: str, namespace: str, rules: Iterable[Remap]) -> tuple[str, str]:
    """Node name and namespace after `__node` and `__ns` rules."""
    given = node
    for rule in rules:
        if rule.node not in ("", given):
            continue
        if rule.match in ("__node", "__name"):
            node = rule.replacement
        elif rule.match == "__ns":
            namespace = rule.replacement
    return node, namespace


def topic_to_dds(full: str) -> str:
    """DDS topic of a ROS topic."""
    return f"rt{full}"


def request_to_dds(full: str) -> str:
    """DDS topic of a service's requests."""
    return f"rq{full}Request"


def reply_to_dds(full: str) -> str:
    """DDS topic of a service's replies."""
    return f"rr{full}Reply"
