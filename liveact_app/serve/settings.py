"""What a server allows: every bound in one place, checked when it starts."""

from __future__ import annotations

import ipaddress

from pydantic import BaseModel, ConfigDict, Field

MIB = 1 << 20


class Settings(BaseModel):
    """Bounds of one server. Bytes are checked before anything is decoded, seconds while it is.

    token         what a client must show; needed where others than this machine can reach the server
    origins       web pages beside the server's own that may open sessions, such as "https://example.org"
    sessions      at a time; one more is told that all are taken
    viewers       of one session, its owner not counted
    idle_s        without a message from its owner, then a session ends
    longest_s     of a session
    drain_s       that running sessions are given when the server is asked to stop
    open_within_s that a connection may take to say what it wants
    upload_within_s that an upload may take to come
    files         videos that come, wait or are made from uploads; `kept` that are done stay for `keep_s` seconds
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    token: str | None = Field(None, min_length=8, max_length=200)
    origins: tuple[str, ...] = ()
    sessions: int = Field(4, ge=1, le=256)
    viewers: int = Field(8, ge=0, le=256)
    idle_s: float = Field(300, gt=0)
    longest_s: float = Field(3600, gt=0)
    drain_s: float = Field(20, ge=0)
    open_within_s: float = Field(10, gt=0)
    picture_bytes: int = 12 * MIB
    upload_bytes: int = 64 * MIB
    upload_within_s: float = Field(600, gt=0)
    sound_bytes: int = MIB
    """Of one message; 5 s of the highest rate."""
    json_bytes: int = 64 << 10
    recording_s: float = Field(600, gt=0)
    files: int = Field(4, ge=1, le=64)
    kept: int = Field(16, ge=1, le=256)
    keep_s: float = Field(3600, gt=0)
    log_prompts: bool = False

    @property
    def message_bytes(self) -> int:
        """The largest message of a socket: an opening with its picture in base64."""
        return 4 * self.picture_bytes // 3 + self.json_bytes

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine and nobody else's."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
