"""What a child tries that must not be possible there; imports little, as the child imports it too."""

from __future__ import annotations

import os
import socket
import subprocess

from lvg_data.errors import Rejected
from lvg_data.fetch import peers


def try_ways_out(port: int) -> list[str]:
    """In a child: what becomes of connections that are made in other ways than yt-dlp's."""
    peers.guard_process(False)
    said = []
    for family, target in (
        (socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET, ("localhost", port)), (socket.AF_INET, ("", port)),
        (socket.AF_UNIX, "/run/docker.sock"), (socket.AF_INET6, ("::1", port)),
    ):  # fmt: skip
        for way in (socket.socket.connect, socket.socket.connect_ex):
            try:
                with socket.socket(family) as one:
                    said.append(str(way(one, target)))
            except Rejected as err:
                said.append(err.cause)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            said.append(str(one.sendto(b"x", ("127.0.0.1", port))))
        except Rejected as err:
            said.append(err.cause)
    return said


def start_programs(path: str) -> list[str]:
    """In a child: which ways to start a program are open."""
    peers.guard_process(False, ("allowed",))
    said = []
    for start in (
        lambda name: subprocess.run([f"{path}/{name}"], check=True),
        lambda name: subprocess.run(name, shell=True, check=True),
        lambda name: os.system(f"{path}/{name}"),
    ):
        for name in ("allowed", "ffmpeg"):
            try:
                start(name)
                said.append(f"{name} ran")
            except PermissionError:
                said.append(f"{name} refused")
    return said
