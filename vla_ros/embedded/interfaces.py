"""All interface definitions in one `rosbags` type store: Jazzy's messages, this folder's services, vla_ros' own text.

Services and actions are stored as the messages they consist of, under rosidl's names: `pkg/srv/X_Request`,
`pkg/action/X_SendGoal_Response`, `pkg/action/X_FeedbackMessage`, ...
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.base import make_typesdict
from rosbags.typesys.msg import MSGParser

from vla_ros.errors import VlaRosError
from vla_ros.paths import share

DEFINITIONS = Path(__file__).resolve().parent / "definitions"
EMPTY = "structure_needs_at_least_one_member"
SEPARATOR = "---"

store = get_typestore(Stores.ROS2_JAZZY)
# Default values that the type store's tables leave out.
defaults: dict[str, dict[str, Any]] = {"geometry_msgs/msg/Quaternion": {"w": 1.0}}

_GOAL_ID = "unique_identifier_msgs/UUID goal_id\n"


def _add(package: str, kind: str, name: str, text: str) -> None:
    # The parser resolves names without a package inside `msg`, so parse there and file under the real kind.
    parsed = MSGParser(f"MSG: {package}/msg/{name}\n{text}").specification()
    constants, fields = make_typesdict(parsed)[f"{package}/msg/{name}"]
    full = f"{package}/{kind}/{name}"
    given = {field.name: field.value for field in parsed[0].fields if field.value is not None}
    if given:
        defaults[full] = given
    store.fielddefs[full] = (constants, fields or [(EMPTY, (Nodetype.BASE, ("uint8", 0)))])


def _nest(full: str, field: str, of: str) -> None:
    """Append to message `full` a field that holds message `of` (for which .msg text has no syntax)."""
    constants, fields = store.fielddefs[full]
    store.fielddefs[full] = (constants, [*fields, (field, (Nodetype.NAME, of))])


def _add_service(package: str, kind: str, name: str, text: str) -> None:
    parts = _split(text, 2, f"{package}/{kind}/{name}")
    _add(package, kind, f"{name}_Request", parts[0])
    _add(package, kind, f"{name}_Response", parts[1])


def _add_action(package: str, name: str, text: str) -> None:
    goal, result, feedback = _split(text, 3, f"{package}/action/{name}")
    prefix = f"{package}/action/{name}"
    _add(package, "action", f"{name}_Goal", goal)
    _add(package, "action", f"{name}_Result", result)
    _add(package, "action", f"{name}_Feedback", feedback)
    _add_service(package, "action", f"{name}_SendGoal", f"{_GOAL_ID}---\nbool accepted\nbuiltin_interfaces/Time stamp\n")
    _nest(f"{prefix}_SendGoal_Request", "goal", f"{prefix}_Goal")
    _add_service(package, "action", f"{name}_GetResult", f"{_GOAL_ID}---\nint8 status\n")
    _nest(f"{prefix}_GetResult_Response", "result", f"{prefix}_Result")
    _add(package, "action", f"{name}_FeedbackMessage", _GOAL_ID)
    _nest(f"{prefix}_FeedbackMessage", "feedback", f"{prefix}_Feedback")


def _split(text: str, count: int, name: str) -> list[str]:
    parts: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip() == SEPARATOR:
            parts.append([])
        else:
            parts[-1].append(line)
    if len(parts) != count:
        raise VlaRosError(f"{name}: found {len(parts)} sections divided by '---', expected {count}")
    return ["\n".join(part) + "\n" for part in parts]


def load(folder: Path, package: str) -> None:
    """Add every definition in folder/{msg,srv,action} as belonging to `package`."""
    for path in sorted(folder.glob("msg/*.msg")):
        _add(package, "msg", path.stem, path.read_text())
    for path in sorted(folder.glob("srv/*.srv")):
        _add_service(package, "srv", path.stem, path.read_text())
    for path in sorted(folder.glob("action/*.action")):
        _add_action(package, path.stem, path.read_text())


def packages() -> set[str]:
    """Names of all packages that have an interface."""
    return {name.split("/", 1)[0] for name in store.fielddefs}


def members(package: str, kind: str) -> list[str]:
    """Names of a package's own messages (kind "msg"), services ("srv") or actions ("action")."""
    prefix = f"{package}/{kind}/"
    names = [full.removeprefix(prefix) for full in store.fielddefs if full.startswith(prefix)]
    ending = {"msg": "", "srv": "_Request", "action": "_Goal"}[kind]
    # An action's SendGoal request ends in _Request, but an action's kind asks for _Goal only.
    return sorted(name.removesuffix(ending) for name in names if name.endswith(ending))


for _folder in sorted(DEFINITIONS.iterdir()):
    load(_folder, _folder.name)
load(share(), "vla_ros")
