"""How a channel is opened, for both clients."""
from __future__ import annotations

import dataclasses
import json
from typing import Any, Optional, Tuple, Union

import grpc

# An address may be several replicas (dns:///NAME, ipv4:HOST:PORT,HOST:PORT). Every call takes the next one that
# says it is ready; another try thus goes to another replica. There are no gRPC retries: _retry.py has its own.
_SERVICE_CONFIG = json.dumps({
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "packrat.v1.Inference"},
})
_OPTIONS: Tuple[Tuple[str, Any], ...] = (
    ("grpc.service_config", _SERVICE_CONFIG),
    # A replica that stands still ends its streams, with UNAVAILABLE, instead of holding them.
    ("grpc.keepalive_time_ms", 10000),
    ("grpc.keepalive_timeout_ms", 5000),
    # A scored text with the best of each place is larger than gRPC's 4 MiB.
    ("grpc.max_receive_message_length", -1),
)


@dataclasses.dataclass(frozen=True)
class Tls:
    """Paths of PEM files. Without `ca` the system's authorities are trusted; `certificate` and `key` are for
    servers that ask who calls; `server_name` is the name in the server's certificate, if it is not the
    address's."""
    ca: Optional[str] = None
    certificate: Optional[str] = None
    key: Optional[str] = None
    server_name: Optional[str] = None

    def credentials(self) -> Any:
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))


def _read(path: Optional[str]) -> Optional[bytes]:
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


def open_channel(library: Any, address: str, tls: Union[Tls, bool, None]) -> Any:
    """`library`: grpc or grpc.aio."""
    if not tls:
        return library.insecure_channel(address, options=_OPTIONS)
    tls = Tls() if tls is True else tls
    options = _OPTIONS
    if tls.server_name:
        options += (("grpc.ssl_target_name_override", tls.server_name),)
    return library.secure_channel(address, tls.credentials(), options=options)
