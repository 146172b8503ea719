"""Node: the place where publishers, subscriptions, timers, services and parameters belong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import Log, ParameterEvent

import rclpy.logging
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.client import Client
from rclpy.clock import Clock, ROSClock
from rclpy.entities import EntitiesMixin
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.exceptions import (
    InvalidHandle,
    InvalidNamespaceException,
    InvalidNodeNameException,
    InvalidServiceNameException,
    InvalidTopicNameException,
    NoTypeSupportImportedException,
)
from rclpy.graph_queries import GraphMixin
from rclpy.guard_condition import GuardCondition
from rclpy.parameter import Parameter
from rclpy.parameter_service import ParameterService
from rclpy.parameters import ParametersMixin
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, qos_profile_parameter_events, qos_profile_rosout_default, qos_profile_services_default
from rclpy.service import Service
from rclpy.subscription import Subscription
from rclpy.time_source import TimeSource
from rclpy.timer import Rate, Timer
from rclpy.utilities import opened
from vla_ros.embedded import dds, names
from vla_ros.embedded.endpoint_qos import to_dds
from vla_ros.embedded.idl import dds_type
from vla_ros.embedded.messages import Message, type_hash
from vla_ros.embedded.service_wire import ClientWire, ServerWire

HIDDEN_NODE_PREFIX = "_"


class Node(EntitiesMixin, ParametersMixin, GraphMixin):
    """A node of the ROS graph.

    What is the runtime's own is named `_rcl_...`, so that attributes of nodes do not collide with it.
    """

    def __init__(
        self, node_name: str, *, context: Any = None, cli_args: list[str] | None = None, namespace: str | None = None,
        use_global_arguments: bool = True, enable_rosout: bool = True, start_parameter_services: bool = True,
        parameter_overrides: list[Parameter] | None = None, allow_undeclared_parameters: bool = False,
        automatically_declare_parameters_from_overrides: bool = False, enable_logger_service: bool = False,
    ) -> None:  # fmt: skip
        self.context = opened(context)
        given = _arguments(self.context, cli_args, use_global_arguments)
        self._rcl_rules = [rule for arguments in given for rule in arguments.remaps]
        if reason := names.node_error(node_name):
            raise InvalidNodeNameException("node name", node_name, reason)
        start = f"/{(namespace or '').strip('/')}"
        self._rcl_name, self._rcl_namespace = names.renamed(node_name, start, self._rcl_rules)
        if reason := names.node_error(self._rcl_name):
            raise InvalidNodeNameException("node name", self._rcl_name, reason)
        if reason := names.namespace_error(self._rcl_namespace):
            raise InvalidNamespaceException("namespace", self._rcl_namespace, reason)
        overrides: dict[str, Any] = {}
        for arguments in reversed(given):
            overrides.update(arguments.overrides(self._rcl_name, self._rcl_namespace))
        overrides.update({parameter.name: parameter.value for parameter in parameter_overrides or []})

        self._rcl_init_entities()
        self._rcl_overrides_reported = allow_undeclared_parameters
        self._rcl_default_callback_group: CallbackGroup = MutuallyExclusiveCallbackGroup()
        self._rcl_clock = ROSClock()
        logger_name = f"{self._rcl_namespace}/{self._rcl_name}".strip("/").replace("/", ".")
        self._rcl_logger = rclpy.logging.get_logger(logger_name)
        self._rcl_init_parameters(overrides, allow_undeclared_parameters)
        self.context.track(node=self)
        self._rcl_rosout: Publisher | None = None
        if enable_rosout and all(arguments.rosout for arguments in given):
            self._rcl_rosout = self.create_publisher(Log, "/rosout", qos_profile_rosout_default)
            rclpy.logging.add_sink(logger_name, self._rcl_log_to_rosout)
        self._rcl_parameter_event_publisher = self.create_publisher(
            ParameterEvent, "/parameter_events", qos_profile_parameter_events
        )
        if automatically_declare_parameters_from_overrides:
            self.declare_parameters("", list(overrides.items()), ignore_override=False)
        self._rcl_time_source = TimeSource(self)
        if start_parameter_services:
            self._rcl_parameter_service = ParameterService(self)
        self._rcl_batching = False
        self.context.graph.add_node(self, self._rcl_name, self._rcl_namespace)

    def get_name(self) -> str:
        """Name without namespace."""
        return self._rcl_name

    def get_namespace(self) -> str:
        """Namespace, '/' for none."""
        return self._rcl_namespace

    def get_fully_qualified_name(self) -> str:
        """Namespace and name."""
        return names.join(self._rcl_namespace, self._rcl_name)

    def get_logger(self) -> rclpy.logging.RcutilsLogger:
        """Logger of this node."""
        return self._rcl_logger

    def get_clock(self) -> Clock:
        """ROS clock: follows /clock if use_sim_time is true."""
        return self._rcl_clock

    @property
    def default_callback_group(self) -> CallbackGroup:
        """Group of entities that are given none: one callback at a time."""
        return self._rcl_default_callback_group

    def resolve_topic_name(self, topic: str, *, only_expand: bool = False) -> str:
        """Full name after remapping.

        Raises:
            InvalidTopicNameException: not a topic name.
        """
        if reason := names.topic_error(topic):
            raise InvalidTopicNameException("topic name", topic, reason)
        return self._rcl_resolve(topic, "topic", only_expand)

    def resolve_service_name(self, service: str, *, only_expand: bool = False) -> str:
        """Full name after remapping.

        Raises:
            InvalidServiceNameException: not a service name.
        """
        if reason := names.topic_error(service):
            raise InvalidServiceNameException("service name", service, reason)
        return self._rcl_resolve(service, "service", only_expand)

    def _rcl_resolve(self, given: str, kind: str, only_expand: bool) -> str:
        name, namespace = self._rcl_name, self._rcl_namespace
        full = names.expand(given, name, namespace)
        return full if only_expand else names.remap(full, kind, name, namespace, self._rcl_rules)

    def create_publisher(
        self, msg_type: Any, topic: str, qos_profile: QoSProfile | int, *, callback_group: CallbackGroup | None = None,
        event_callbacks: PublisherEventCallbacks | None = None, qos_overriding_options: Any = None,
        publisher_class: type[Publisher] = Publisher,
    ) -> Publisher:  # fmt: skip
        """Publisher of `msg_type` on `topic`; an int as QoS is the depth."""
        profile = self._rcl_prepare(msg_type, qos_profile)
        name = self.resolve_topic_name(topic)
        qos = to_dds(profile, writer=True, user_data=f"typehash={type_hash(msg_type.TYPE)};")
        writer = dds.Writer(self.context.participant, names.topic_to_dds(name), dds_type(msg_type.TYPE), qos)
        publisher = publisher_class(writer, msg_type, name, profile)
        callbacks = event_callbacks or PublisherEventCallbacks()
        group = callback_group or self._rcl_default_callback_group
        publisher.event_handlers = list(callbacks.create_event_handlers(group, writer.entity, name, self._rcl_logger))
        self._rcl_publishers.append(publisher)
        for handler in publisher.event_handlers:
            self.add_waitable(handler)
        self._rcl_endpoints_changed(added=(writer.entity,))
        return publisher

    def create_subscription(
        self, msg_type: Any, topic: str, callback: Callable[..., Any], qos_profile: QoSProfile | int, *,
        callback_group: CallbackGroup | None = None, event_callbacks: SubscriptionEventCallbacks | None = None,
        qos_overriding_options: Any = None, raw: bool = False,
    ) -> Subscription:  # fmt: skip
        """Subscription of `msg_type` on `topic`; with `raw` the callback gets CDR bytes."""
        profile = self._rcl_prepare(msg_type, qos_profile)
        name = self.resolve_topic_name(topic)
        qos = to_dds(profile, writer=False, user_data=f"typehash={type_hash(msg_type.TYPE)};")
        reader = dds.Reader(self.context.participant, names.topic_to_dds(name), dds_type(msg_type.TYPE), qos)
        group = callback_group or self._rcl_default_callback_group
        subscription = Subscription(reader, msg_type, name, callback, group, profile, raw)
        callbacks = event_callbacks or SubscriptionEventCallbacks()
        subscription.event_handlers = list(callbacks.create_event_handlers(group, reader.entity, name, self._rcl_logger))
        for handler in subscription.event_handlers:
            self.add_waitable(handler)
        self.add_waitable(subscription, (reader.entity,))
        return subscription

    def create_timer(
        self, timer_period_sec: float, callback: Callable[..., Any] | None, callback_group: CallbackGroup | None = None,
        clock: Clock | None = None, autostart: bool = True,
    ) -> Timer:  # fmt: skip
        """Timer with a period in seconds of the node's clock, or of the one given."""
        timer = Timer(
            callback, callback_group or self._rcl_default_callback_group, int(float(timer_period_sec) * 1e9),
            clock or self._rcl_clock, context=self.context, autostart=autostart, changed=self._rcl_timers_changed,
            driven=clock is None,
        )  # fmt: skip
        self.add_waitable(timer)
        return timer

    def create_rate(self, frequency: float, clock: Clock | None = None) -> Rate:
        """Rate in Hz."""
        if frequency <= 0:
            raise ValueError("frequency must be > 0")
        timer = Timer(
            None, self._rcl_default_callback_group, int(1e9 / frequency), clock or self._rcl_clock, context=self.context
        )
        return Rate(timer, context=self.context)

    def create_service(
        self, srv_type: Any, srv_name: str, callback: Callable[..., Any], *,
        qos_profile: QoSProfile = qos_profile_services_default, callback_group: CallbackGroup | None = None,
    ) -> Service:  # fmt: skip
        """Service `callback(request, response) -> response`."""
        self._rcl_check_service(srv_type)
        name = self.resolve_service_name(srv_name)
        wire = ServerWire(self.context.participant, name, srv_type, qos_profile)
        service = Service(wire, srv_type, name, callback, callback_group)
        self.add_waitable(service, (wire.reader.entity, wire.writer.entity))
        return service

    def create_client(
        self, srv_type: Any, srv_name: str, *, qos_profile: QoSProfile = qos_profile_services_default,
        callback_group: CallbackGroup | None = None,
    ) -> Client:  # fmt: skip
        """Client of a service."""
        self._rcl_check_service(srv_type)
        name = self.resolve_service_name(srv_name)
        wire = ClientWire(self.context.participant, name, srv_type, qos_profile)
        client = Client(self.context, wire, srv_type, name, callback_group, lambda: self.executor)
        self.add_waitable(client, (wire.reader.entity, wire.writer.entity))
        return client

    def create_guard_condition(self, callback: Callable[[], Any], callback_group: CallbackGroup | None = None) -> GuardCondition:
        """Guard condition; its trigger() calls `callback` in the executor."""
        guard = GuardCondition(callback, callback_group, self.context)
        self.add_waitable(guard)
        return guard

    def _rcl_prepare(self, msg_type: Any, qos_profile: QoSProfile | int) -> QoSProfile:
        if self._rcl_destroyed:
            raise InvalidHandle("cannot use Destroyable because destruction was requested")
        if not (isinstance(msg_type, type) and issubclass(msg_type, Message)):
            raise NoTypeSupportImportedException(f"{msg_type!r} is no message class")
        if isinstance(qos_profile, QoSProfile):
            return qos_profile
        if not isinstance(qos_profile, int) or qos_profile < 0:
            raise ValueError(f"qos_profile: found {qos_profile!r}, expected a QoSProfile or a depth of 0 or more")
        return QoSProfile(depth=qos_profile)

    def _rcl_check_service(self, srv_type: Any) -> None:
        if self._rcl_destroyed:
            raise InvalidHandle("cannot use Destroyable because destruction was requested")
        if not hasattr(srv_type, "Request") or not hasattr(srv_type, "Response"):
            raise NoTypeSupportImportedException(f"{srv_type!r} is no service type")

    def _rcl_report_unused_overrides(self) -> None:
        """Not in rclpy: complain, once, about parameters that were given but never declared. Called at first spin."""
        if self._rcl_overrides_reported:
            return
        self._rcl_overrides_reported = True
        for name, closest in self._rcl_unused_overrides().items():
            hint = f"; the closest declared name is '{closest}'" if closest else ""
            self._rcl_logger.error(f"parameter '{name}' was given, but {self._rcl_name} declares none of that name{hint}")

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy_node()

    def _rcl_log_to_rosout(self, severity: int, name: str, text: str, frame: Any) -> None:
        if self._rcl_rosout is None or self._rcl_destroyed:
            return
        code = frame.f_code if frame is not None else None
        line = {"file": code.co_filename, "function": code.co_name, "line": frame.f_lineno} if code else {}
        self._rcl_rosout.publish(Log(stamp=self._rcl_clock.now().to_msg(), level=int(severity), name=name, msg=text, **line))


def _arguments(context: Any, cli_args: list[str] | None, use_global: bool) -> list[Any]:
    """Parsed arguments that apply to a node, the strongest first."""
    from vla_ros.embedded import arguments

    own = [arguments.parse(cli_args)] if cli_args else []
    return own + ([context.arguments] if use_global else [])
