"""Quality of service, with rclpy's names and numbers."""

from __future__ import annotations

from enum import IntEnum

from rclpy.duration import Duration, Infinite


class InvalidQoSProfileException(Exception):
    """A profile that cannot be."""

    def __init__(self, *args: object) -> None:
        super().__init__("Invalid QoSProfile", *args)


class QoSPolicyKind(IntEnum):
    """Policies by rmw's numbers, as incompatible-QoS events name them."""

    INVALID = 1
    DURABILITY = 2
    DEADLINE = 4
    LIVELINESS = 8
    RELIABILITY = 16
    HISTORY = 32
    LIFESPAN = 64
    DEPTH = 128
    LIVELINESS_LEASE_DURATION = 256
    AVOID_ROS_NAMESPACE_CONVENTIONS = 512


class _Policy(IntEnum):
    @property
    def short_key(self) -> str:
        """Name as the command line tools write it."""
        return self.name.lower()

    @classmethod
    def short_keys(cls) -> list[str]:
        """All short keys."""
        return [member.short_key for member in cls]

    @classmethod
    def get_from_short_key(cls, name: str) -> _Policy:
        """Member by short key."""
        return cls[name.upper()]


class HistoryPolicy(_Policy):
    """How many samples are kept."""

    SYSTEM_DEFAULT = 0
    KEEP_LAST = 1
    KEEP_ALL = 2
    UNKNOWN = 3


class ReliabilityPolicy(_Policy):
    """Whether lost samples are sent again."""

    SYSTEM_DEFAULT = 0
    RELIABLE = 1
    BEST_EFFORT = 2
    UNKNOWN = 3
    BEST_AVAILABLE = 4


class DurabilityPolicy(_Policy):
    """Whether late joiners get the last samples."""

    SYSTEM_DEFAULT = 0
    TRANSIENT_LOCAL = 1
    VOLATILE = 2
    UNKNOWN = 3
    BEST_AVAILABLE = 4


class LivelinessPolicy(_Policy):
    """Who asserts that a publisher is alive."""

    SYSTEM_DEFAULT = 0
    AUTOMATIC = 1
    MANUAL_BY_TOPIC = 3
    UNKNOWN = 4
    BEST_AVAILABLE = 5


QoSHistoryPolicy = HistoryPolicy
QoSReliabilityPolicy = ReliabilityPolicy
QoSDurabilityPolicy = DurabilityPolicy
QoSLivelinessPolicy = LivelinessPolicy
UNSPECIFIED = Duration()


class QoSProfile:
    """A set of policies; durations of zero mean not specified."""

    __slots__ = (
        "avoid_ros_namespace_conventions", "deadline", "depth", "durability", "history", "lifespan", "liveliness",
        "liveliness_lease_duration", "reliability",
    )  # fmt: skip

    def __init__(self, **policies) -> None:
        unknown = set(policies) - set(self.__slots__)
        if unknown:
            raise AttributeError(f"Got invalid arguments: {unknown}")
        if "history" not in policies:
            if "depth" not in policies:
                raise InvalidQoSProfileException("History and/or depth settings are required.")
            policies["history"] = HistoryPolicy.KEEP_LAST
        self.history = HistoryPolicy(policies["history"])
        if self.history == HistoryPolicy.KEEP_LAST and "depth" not in policies:
            raise InvalidQoSProfileException("History set to KEEP_LAST without a depth setting.")
        self.depth = policies.get("depth", 0)
        if not isinstance(self.depth, int) or self.depth < 0:
            raise ValueError(f"depth: found {self.depth!r}, expected an int of 0 or more")
        self.reliability = ReliabilityPolicy(policies.get("reliability", ReliabilityPolicy.RELIABLE))
        self.durability = DurabilityPolicy(policies.get("durability", DurabilityPolicy.VOLATILE))
        self.liveliness = LivelinessPolicy(policies.get("liveliness", LivelinessPolicy.SYSTEM_DEFAULT))
        for name in ("lifespan", "deadline", "liveliness_lease_duration"):
            value = policies.get(name, UNSPECIFIED)
            if not isinstance(value, Duration):
                raise TypeError(f"{name}: found {value!r}, expected a Duration")
            setattr(self, name, value)
        self.avoid_ros_namespace_conventions = bool(policies.get("avoid_ros_namespace_conventions", False))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QoSProfile) and all(getattr(self, n) == getattr(other, n) for n in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"QoSProfile({', '.join(f'{n}={getattr(self, n)!r}' for n in self.__slots__)})"


def _keep_last(depth: int, **policies) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, **policies)


qos_profile_default = _keep_last(10)
qos_profile_sensor_data = _keep_last(5, reliability=ReliabilityPolicy.BEST_EFFORT)
qos_profile_services_default = _keep_last(10)
qos_profile_parameters = _keep_last(1000)
qos_profile_parameter_events = _keep_last(1000)
qos_profile_system_default = QoSProfile(
    history=HistoryPolicy.SYSTEM_DEFAULT,
    reliability=ReliabilityPolicy.SYSTEM_DEFAULT,
    durability=DurabilityPolicy.SYSTEM_DEFAULT,
)
qos_profile_rosout_default = _keep_last(1000, durability=DurabilityPolicy.TRANSIENT_LOCAL, lifespan=Duration(seconds=10))
qos_profile_unknown = QoSProfile(
    history=HistoryPolicy.UNKNOWN, reliability=ReliabilityPolicy.UNKNOWN, durability=DurabilityPolicy.UNKNOWN
)
qos_profile_best_available = _keep_last(
    10, reliability=ReliabilityPolicy.BEST_AVAILABLE, durability=DurabilityPolicy.BEST_AVAILABLE
)
qos_profile_action_status_default = _keep_last(1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class QoSPresetProfiles:
    """rclpy's presets by name."""

    UNKNOWN = qos_profile_unknown
    DEFAULT = qos_profile_default
    SYSTEM_DEFAULT = qos_profile_system_default
    SENSOR_DATA = qos_profile_sensor_data
    SERVICES_DEFAULT = qos_profile_services_default
    PARAMETERS = qos_profile_parameters
    PARAMETER_EVENTS = qos_profile_parameter_events
    ACTION_STATUS_DEFAULT = qos_profile_action_status_default
    BEST_AVAILABLE = qos_profile_best_available

    @classmethod
    def get_from_short_key(cls, name: str) -> QoSProfile:
        """Preset by its lower-case name."""
        profile: QoSProfile = getattr(cls, name.upper())
        return profile


class QoSCompatibility(IntEnum):
    """Answer of qos_check_compatible."""

    OK = 0
    WARNING = 1
    ERROR = 2


def qos_check_compatible(publisher_qos: QoSProfile, subscription_qos: QoSProfile) -> tuple[QoSCompatibility, str]:
    """Whether a publisher and a subscription with these profiles would match, and why not."""
    reasons = []
    best_effort = publisher_qos.reliability == ReliabilityPolicy.BEST_EFFORT
    if best_effort and subscription_qos.reliability == ReliabilityPolicy.RELIABLE:
        reasons.append("ERROR: Best effort publisher and reliable subscription;")
    volatile = publisher_qos.durability == DurabilityPolicy.VOLATILE
    if volatile and subscription_qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
        reasons.append("ERROR: Volatile publisher and transient local subscription;")
    for name in ("deadline", "liveliness_lease_duration"):
        offered, requested = getattr(publisher_qos, name), getattr(subscription_qos, name)
        if requested not in (UNSPECIFIED, Infinite) and (offered == UNSPECIFIED or offered > requested):
            reasons.append(f"ERROR: Subscription requests a shorter {name} than the publisher offers;")
    manual = subscription_qos.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC
    if manual and publisher_qos.liveliness != LivelinessPolicy.MANUAL_BY_TOPIC:
        reasons.append("ERROR: Publisher's liveliness is automatic and subscription's is manual by topic;")
    return (QoSCompatibility.ERROR if reasons else QoSCompatibility.OK), "".join(reasons)
