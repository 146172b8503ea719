#!/usr/bin/env python3
"""Serves a LeRobot policy (ACT, SmolVLA, pi0, pi0.5) with openpi's wire format, for policy_node's policy:=ws://HOST:PORT.

Runs in LeRobot's own environment, beside a checkout of this package, which need not be installed there:

    pip install 'lerobot>=0.4.4,<0.7' msgpack 'websockets>=15'
    python scripts/lerobot_server.py lerobot/act_aloha_sim_transfer_cube_human --host 0.0.0.0 --port 8000

No pickle, no encryption, and whoever reaches the port gets answers: keep it inside the robot's network.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection
from websockets.sync.server import serve as listen

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vla_ros.policy.foreign import wire  # the checkout must be on the path first
from vla_ros.policy.foreign.lerobot import LeRobotModel

INTERNAL_ERROR = 1011  # a close code


@contextmanager
def serve(
    policy: Callable[[dict[str, Any]], Any], metadata: dict[str, Any], host: str, port: int, begin: Callable[[], None]
) -> Iterator[Server]:
    """A server that listens; its serve_forever() answers.

    Args:
        policy: from a request to actions [H, D].
        begin: called at each new connection.
    """
    connections: set[ServerConnection] = set()

    def handle(connection: ServerConnection) -> None:
        connections.add(connection)
        try:
            begin()
            connection.send(wire.pack(metadata))
            for message in connection:
                start = time.perf_counter()
                actions = policy(wire.unpack(message))
                took = {"infer_ms": 1e3 * (time.perf_counter() - start)}
                connection.send(wire.pack({"actions": actions, "server_timing": took}))
        except ConnectionClosed:
            pass  # the client went while it was answered
        except Exception:  # noqa: BLE001  whatever a policy raises: the client is told
            reason = traceback.format_exc()
            print(reason, file=sys.stderr)
            connection.send(reason)
            connection.close(INTERNAL_ERROR)
        finally:
            connections.discard(connection)

    server = listen(handle, host, port, compression=None, max_size=wire.LARGEST, ping_interval=None)
    try:
        yield server
    finally:
        server.shutdown()
        for connection in list(connections):  # websockets before 17 leaves them open
            connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serves a LeRobot policy with openpi's wire format.")
    parser.add_argument("policy", help="folder or hub name of a LeRobot policy")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    model = LeRobotModel.load(args.policy)
    with serve(model, model.metadata, args.host, args.port, model.reset) as server, suppress(KeyboardInterrupt):
        print(f"{args.policy} at ws://{args.host}:{args.port}: {model.metadata}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
