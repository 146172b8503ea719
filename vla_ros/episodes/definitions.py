"""Message definitions for recording and reading without ROS: the standard types of Jazzy and those of msg/."""

from __future__ import annotations

import functools

from rosbags.interfaces.typing import Typesdict
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from vla_ros import paths
from vla_ros.errors import VlaRosError


@functools.cache
def typestore() -> Typestore:
    """Type store that (de)serialises every standard message and the package's own."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: Typesdict = {}
    for file in sorted((paths.share() / "msg").glob("*.msg")):
        types.update(get_types_from_msg(file.read_text(encoding="utf-8"), f"vla_ros/msg/{file.stem}"))
    store.register(types)
    return store


@functools.cache
def recorded_types(schemas: tuple[tuple[str, str], ...]) -> Typestore:
    """Type store of the definitions (type name, text) that a file carries, which later versions of a message leave readable.

    Raises:
        VlaRosError: a text that is no message definition.
    """
    store, types = get_typestore(Stores.EMPTY), Typesdict()
    for name, text in schemas:
        try:
            types.update(get_types_from_msg(text, name))
        except TypesysError as error:
            raise VlaRosError(f"{name}: found no message definition ({error})") from error
    store.register(types)
    return store


@functools.cache
def schema_text(type_name: str) -> str:
    """Definition of a message `pkg/msg/Name` with all that it contains, as `ros2msg` schemas hold it.

    Raises:
        VlaRosError: neither a standard type nor one of the package's.
    """
    store = typestore()
    if type_name not in store.fielddefs:
        raise VlaRosError(
            f"message type '{type_name}' has no known definition; expected a standard ROS 2 message (pkg/msg/Name) or "
            "one of vla_ros/msg"
        )
    return str(store.generate_msgdef(type_name, ros_version=2)[0])
