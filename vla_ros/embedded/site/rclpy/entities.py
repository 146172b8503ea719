"""The entities that a node has; mixed into Node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import rclpy.logging
from rclpy.client import Client
from rclpy.guard_condition import GuardCondition
from rclpy.publisher import Publisher
from rclpy.service import Service
from rclpy.subscription import Subscription
from rclpy.timer import Rate, Timer
from rclpy.waitable import Waitable


class EntitiesMixin:
    """Lists of entities for executor and graph, and their end."""

    context: Any
    _rcl_default_callback_group: Any
    _rcl_logger: rclpy.logging.RcutilsLogger

    def _rcl_init_entities(self) -> None:
        self.executor: Any = None
        self._rcl_publishers: list[Publisher] = []
        self._rcl_waitables: list[Waitable] = []
        self._rcl_endpoints: list[Any] = []  # DDS entities that the graph shows as this node's
        self._rcl_batching = True  # while set, the graph is not told of each new endpoint
        self._rcl_destroyed = False

    @property
    def waitables(self) -> list[Waitable]:
        """What an executor serves."""
        return list(self._rcl_waitables)

    @property
    def publishers(self) -> Iterator[Publisher]:
        """Publishers of this node."""
        yield from self._rcl_publishers

    @property
    def subscriptions(self) -> Iterator[Subscription]:
        """Subscriptions of this node."""
        yield from (entity for entity in self._rcl_waitables if isinstance(entity, Subscription))

    @property
    def timers(self) -> Iterator[Timer]:
        """Timers of this node."""
        yield from (entity for entity in self._rcl_waitables if isinstance(entity, Timer))

    @property
    def services(self) -> Iterator[Service]:
        """Services of this node."""
        yield from (entity for entity in self._rcl_waitables if isinstance(entity, Service))

    @property
    def clients(self) -> Iterator[Client]:
        """Clients of this node."""
        yield from (entity for entity in self._rcl_waitables if isinstance(entity, Client))

    def _rcl_readers(self) -> list[Any]:
        """DDS readers, for the graph."""
        return [entity for entity in self._rcl_endpoints if hasattr(entity, "take")]

    def _rcl_writers(self) -> list[Any]:
        """DDS writers, for the graph."""
        return [entity for entity in self._rcl_endpoints if hasattr(entity, "write")]

    def add_waitable(self, entity: Waitable, endpoints: tuple[Any, ...] = ()) -> None:
        """Let the executor serve `entity`, whose DDS endpoints are listed as this node's."""
        if entity.callback_group is None:
            entity.callback_group = self._rcl_default_callback_group
        entity.callback_group.add_entity(entity)
        self._rcl_waitables.append(entity)
        self._rcl_endpoints_changed(added=endpoints)

    def remove_waitable(self, entity: Waitable, endpoints: tuple[Any, ...] = ()) -> bool:
        """Stop serving `entity`; whether it was served."""
        if entity not in self._rcl_waitables:
            return False
        self._rcl_waitables.remove(entity)
        entity.callback_group.entities.discard(entity)
        self._rcl_endpoints_changed(removed=endpoints)
        return True

    def _rcl_timers_changed(self) -> None:
        """Some timer may be due earlier than the executor knows."""
        if self.executor is not None:
            self.executor.wake()

    def _rcl_endpoints_changed(self, added: tuple[Any, ...] = (), removed: tuple[Any, ...] = ()) -> None:
        if self._rcl_destroyed:
            return
        self._rcl_endpoints = [entity for entity in (*self._rcl_endpoints, *added) if entity not in removed]
        if self.executor is not None:
            self.executor.entities_changed()
        if (added or removed) and not self._rcl_batching:
            self.context.graph.update()

    def destroy_publisher(self, publisher: Publisher) -> bool:
        """Remove a publisher; whether it was this node's."""
        if publisher not in self._rcl_publishers:
            return False
        self._rcl_publishers.remove(publisher)
        for handler in publisher.event_handlers:
            self.remove_waitable(handler)
        self._rcl_endpoints_changed(removed=(publisher._writer.entity,))
        publisher.destroy()
        return True

    def destroy_subscription(self, subscription: Subscription) -> bool:
        """Remove a subscription; whether it was this node's."""
        for handler in subscription.event_handlers:
            self.remove_waitable(handler)
        return self._rcl_destroy(subscription, (subscription._reader.entity,))

    def destroy_service(self, service: Service) -> bool:
        """Remove a service; whether it was this node's."""
        return self._rcl_destroy(service, (service._wire.reader.entity, service._wire.writer.entity))

    def destroy_client(self, client: Client) -> bool:
        """Remove a client; whether it was this node's."""
        return self._rcl_destroy(client, (client._wire.reader.entity, client._wire.writer.entity))

    def destroy_timer(self, timer: Timer) -> bool:
        """Remove a timer; whether it was this node's."""
        return self._rcl_destroy(timer)

    def destroy_guard_condition(self, guard: GuardCondition) -> bool:
        """Remove a guard condition; whether it was this node's."""
        return self._rcl_destroy(guard)

    def destroy_rate(self, rate: Rate) -> bool:
        """Stop a rate."""
        rate.destroy()
        return True

    def _rcl_destroy(self, entity: Any, endpoints: tuple[Any, ...] = ()) -> bool:
        if not self.remove_waitable(entity, endpoints):
            return False
        entity.destroy()
        return True

    @property
    def _rcl_is_destroyed(self) -> bool:
        """Whether destroy_node() was called."""
        return self._rcl_destroyed

    def destroy_node(self) -> None:
        """Remove the node with all that it has."""
        self._rcl_destroy_node()
        self.context.release_if_unused()

    def _rcl_destroy_node(self) -> None:
        if self._rcl_destroyed:
            return
        self._rcl_batching = True
        rclpy.logging.remove_sink(self._rcl_logger.name)
        if self.executor is not None:
            self.executor.remove_node(self)
        for publisher in list(self._rcl_publishers):
            self.destroy_publisher(publisher)
        for entity in self.waitables:
            if hasattr(entity, "destroy"):
                self._rcl_destroy(entity)
        self._rcl_destroyed = True
        self._rcl_endpoints, self._rcl_waitables = [], []
        self.context.graph.remove_node(self)
