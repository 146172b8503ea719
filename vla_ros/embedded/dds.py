"""The thin layer over Cyclone's C library: participant, endpoints with ready CDR bytes, wait set, status counters.

Blocking calls go through ctypes, which lets other Python threads run meanwhile.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any

from cyclonedds._clayer import ddspy_take, ddspy_write
from cyclonedds.core import DDSException, Entity, GuardCondition, InstanceState, ReadCondition, SampleState, ViewState
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.internal import DDS, dds_c_t
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic

from vla_ros.embedded import config
from vla_ros.errors import VlaRosError

ANY = SampleState.Any | ViewState.Any | InstanceState.Any
INFINITE = (1 << 63) - 1  # [ns]
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

_lib = DDS._dll_handle
_wait = _lib.dds_waitset_wait
_wait.argtypes = [ctypes.c_int32, ctypes.POINTER(ctypes.c_ssize_t), ctypes.c_size_t, ctypes.c_int64]
_attach = _lib.dds_waitset_attach
_attach.argtypes = [ctypes.c_int32, ctypes.c_int32, ctypes.c_ssize_t]
_detach = _lib.dds_waitset_detach
_detach.argtypes = [ctypes.c_int32, ctypes.c_int32]
_create_waitset = _lib.dds_create_waitset
_create_waitset.argtypes = [ctypes.c_int32]
_delete = _lib.dds_delete
_delete.argtypes = [ctypes.c_int32]
_wait_for_acks = _lib.dds_wait_for_acks
_wait_for_acks.argtypes = [ctypes.c_int32, ctypes.c_int64]
_domains: dict[int, Domain] = {}
_participants: Counter[int] = Counter()  # that are open, by domain
_lock = threading.Lock()  # of both


def _keep_memory() -> None:
    """Let glibc keep freed image-sized blocks: giving them back and faulting them in again costs 10x the copy."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_TRIM_THRESHOLD, 256 << 20)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)


def create_participant(domain_id: int | None = None) -> DomainParticipant:
    """Participant in the domain and with the configuration that the environment asks for.

    Raises:
        VlaRosError: bad environment, or the network or the configuration does not allow a participant.
    """
    settings = config.from_environment(domain_id=domain_id)
    _keep_memory()
    try:
        with _lock:
            # A domain's configuration is read with its first participant.
            if settings.xml and settings.domain not in _domains:
                _domains[settings.domain] = Domain(settings.domain, settings.xml)
            participant = DomainParticipant(settings.domain, qos=Qos(Policy.Userdata(b"enclave=/;")))
            _participants[settings.domain] += 1
        return participant
    except DDSException as error:
        where = f"CYCLONEDDS_URI={os.environ['CYCLONEDDS_URI']}" if "CYCLONEDDS_URI" in os.environ else settings.xml
        raise VlaRosError(
            f"no DDS participant in domain {settings.domain} (ROS_AUTOMATIC_DISCOVERY_RANGE={settings.range}): {error} "
            f"Expected a network interface that is up and fewer than 120 participants. Configuration: {where}"
        ) from error


def delete_participant(participant: DomainParticipant) -> None:
    """Delete a participant with all its entities, and with the last one its domain: Cyclone's threads end now, not somewhere in
    the interpreter's own end."""
    domain = participant.domain_id
    with _lock:
        delete(participant)
        _participants[domain] -= 1
        if not _participants[domain] and domain in _domains:
            delete(_domains.pop(domain))


def delete(entity: Entity) -> None:
    """Delete a DDS entity now, without waiting for Python's garbage collection."""
    Entity._entities.pop(entity._ref, None)
    _delete(entity._ref)


class Writer:
    """Data writer that takes ready CDR bytes."""

    def __init__(self, participant: DomainParticipant, topic: str, data_type: Any, qos: Qos) -> None:
        self.topic = Topic(participant, topic, data_type)
        self.entity = DataWriter(participant, self.topic, qos)
        self.closed = False
        self._ref = self.entity._ref

    def write(self, data: bytes | memoryview) -> None:
        """Send CDR bytes with encapsulation header.

        Raises:
            VlaRosError: Cyclone refused them.
        """
        rest = len(data) & 3
        if rest:
            data = b"".join((data, _PADDING[rest]))
        code = ddspy_write(self._ref, data)
        if code < 0:
            raise VlaRosError(f"writing {len(data)} bytes to {self.topic.get_name()}: {DDSException(code)}")

    def assert_liveliness(self) -> None:
        """Assert MANUAL_BY_TOPIC liveliness."""
        _lib.dds_assert_liveliness(ctypes.c_int32(self._ref))

    def wait_for_acks(self, timeout: int) -> bool:
        """Wait at most `timeout` ns for all reliable readers; whether all have all."""
        return int(_wait_for_acks(self._ref, timeout)) == 0

    def matched(self) -> int:
        """Number of matched readers."""
        status = dds_c_t.publication_matched_status()
        _lib.dds_get_publication_matched_status(ctypes.c_int32(self._ref), ctypes.byref(status))
        return int(status.current_count)

    def close(self) -> None:
        """Delete writer and topic."""
        self.closed = True
        delete(self.entity)
        delete(self.topic)


class Reader:
    """Data reader that hands out CDR bytes; `condition` triggers while there are any."""

    def __init__(self, participant: DomainParticipant, topic: str, data_type: Any, qos: Qos) -> None:
        self.name = topic
        self.topic = Topic(participant, topic, data_type)
        self.entity = DataReader(participant, self.topic, qos)
        self.condition = ReadCondition(self.entity, ANY)
        self._ref = self.entity._ref

    def take(self, count: int = 1) -> list[tuple[bytes, Any]]:
        """Up to `count` samples with their SampleInfo, of those that carry data.

        Raises:
            VlaRosError: Cyclone reports an error.
        """
        samples = ddspy_take(self._ref, ANY, count)
        if isinstance(samples, int):
            raise VlaRosError(f"reading from {self.name}: {DDSException(samples)}")  # which may be deleted by now
        return [sample for sample in samples if sample[1].valid_data]

    def matched(self) -> int:
        """Number of matched writers."""
        status = dds_c_t.subscription_matched_status()
        _lib.dds_get_subscription_matched_status(ctypes.c_int32(self._ref), ctypes.byref(status))
        return int(status.current_count)

    def close(self) -> None:
        """Delete reader, condition and topic."""
        delete(self.condition)
        delete(self.entity)
        delete(self.topic)


class Trigger:
    """Guard condition that stays set until cleared; may be set from any thread."""

    def __init__(self, participant: DomainParticipant) -> None:
        self.condition = GuardCondition(participant)

    def set(self) -> None:
        """Wake whoever waits."""
        self.condition.set(True)

    def clear(self) -> None:
        """Back to not set."""
        self.condition.set(False)

    def close(self) -> None:
        """Delete the condition."""
        delete(self.condition)


class WaitSet:
    """Waits for conditions and status changes; entities are known by a number that the caller chooses."""

    CAPACITY = 512

    def __init__(self, participant: DomainParticipant) -> None:
        self._ref = _create_waitset(participant._ref)
        if self._ref < 0:
            raise VlaRosError(f"no DDS wait set: {DDSException(self._ref)}")
        self._found = (ctypes.c_ssize_t * self.CAPACITY)()

    def attach(self, entity: Entity, number: int) -> None:
        """Wait for `entity` too; already attached is no error."""
        _attach(self._ref, entity._ref, number)

    def detach(self, entity: Entity) -> None:
        """Do not wait for `entity` any more; not attached, or deleted, is no error."""
        _detach(self._ref, entity._ref)

    def wait(self, timeout: int) -> Iterable[int]:
        """Block for at most `timeout` ns; numbers of the entities that are triggered."""
        count = _wait(self._ref, self._found, self.CAPACITY, timeout)
        if count < 0:
            raise VlaRosError(f"waiting for DDS data: {DDSException(count)}")
        return self._found[: min(count, self.CAPACITY)]

    def close(self) -> None:
        """Delete the wait set."""
        _delete(self._ref)
