"""Cyclone DDS configuration from ROS 2's environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vla_ros.errors import VlaRosError

RANGES = ("LOCALHOST", "SUBNET", "SYSTEM_DEFAULT", "OFF")
MAX_DOMAIN = 232  # the highest whose ports fit in 16 bits
WANTED_BUFFER = 4 << 20  # [B] four 640x480 frames; see DESIGN section 4
_RMEM_MAX = Path("/proc/sys/net/core/rmem_max")


@dataclass(frozen=True)
class Settings:
    """What the environment asks for."""

    domain: int
    range: str
    peers: tuple[str, ...]
    xml: str  # Cyclone's configuration; empty if CYCLONEDDS_URI rules


def from_environment(environment: dict[str, str] | None = None, domain_id: int | None = None) -> Settings:
    """Read ROS_DOMAIN_ID, ROS_AUTOMATIC_DISCOVERY_RANGE, ROS_STATIC_PEERS and CYCLONEDDS_URI.

    Raises:
        VlaRosError: a value that ROS 2 does not know.
    """
    env = dict(os.environ) if environment is None else environment
    text = env.get("ROS_DOMAIN_ID") or "0"
    if domain_id is None:
        if not text.isdecimal() or int(text) > MAX_DOMAIN:
            raise VlaRosError(f"ROS_DOMAIN_ID: found {text!r}, expected a number from 0 to {MAX_DOMAIN}")
        domain_id = int(text)
    elif not 0 <= domain_id <= MAX_DOMAIN:
        raise VlaRosError(f"domain_id: found {domain_id}, expected a number from 0 to {MAX_DOMAIN}")
    reach = (env.get("ROS_AUTOMATIC_DISCOVERY_RANGE") or "SUBNET").upper()
    if reach not in RANGES:
        raise VlaRosError(f"ROS_AUTOMATIC_DISCOVERY_RANGE: found {reach!r}, expected one of {', '.join(RANGES)}")
    peers = tuple(peer.strip() for peer in env.get("ROS_STATIC_PEERS", "").split(";") if peer.strip())
    if env.get("CYCLONEDDS_URI") or reach == "SYSTEM_DEFAULT":
        return Settings(domain_id, reach, peers, "")
    return Settings(domain_id, reach, peers, _xml(reach, peers))


def _xml(reach: str, peers: tuple[str, ...]) -> str:
    local = reach == "LOCALHOST"
    interface = '<Interfaces><NetworkInterface address="127.0.0.1" multicast="false"/></Interfaces>' if local else ""
    # On the subnet discovery alone is multicast, as with rmw_cyclonedds; on loopback and with OFF nothing is.
    multicast = {"SUBNET": "spdp"}.get(reach, "false")
    size = "65500B" if local else "14720B"  # larger datagrams than a handful of frames fare badly on real networks
    addresses = {"LOCALHOST": ("127.0.0.1", *peers), "SUBNET": ("localhost", *peers), "OFF": ()}[reach]
    # Participants with different tags ignore each other.
    tag = f"<Tag>ros_discovery_off_{os.getpid()}</Tag>" if reach == "OFF" else ""
    listed = "".join(f'<Peer address="{_escape(address)}"/>' for address in addresses)
    buffer = min(WANTED_BUFFER, int(_RMEM_MAX.read_text())) if _RMEM_MAX.exists() else 0
    socket = f'<SocketReceiveBufferSize min="{buffer}B"/>' if buffer else ""
    # Each writer with unacknowledged data waits this long at its end; a killed peer on loopback will not come back.
    linger = "<WriterLingerDuration>200ms</WriterLingerDuration>" if local else ""
    index = "none" if reach == "OFF" else "auto"
    return (
        f'<CycloneDDS><Domain Id="any"><General>{interface}<AllowMulticast>{multicast}</AllowMulticast>'
        f"<MaxMessageSize>{size}</MaxMessageSize></General><Discovery><ParticipantIndex>{index}</ParticipantIndex>"
        f"<MaxAutoParticipantIndex>120</MaxAutoParticipantIndex>{f'<Peers>{listed}</Peers>' if listed else ''}"
        f"{tag}</Discovery><Internal>{socket}{linger}</Internal></Domain></CycloneDDS>"
    )


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
