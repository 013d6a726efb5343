"""The TLS contexts of the two ports: HTTP's from two files, gRPC's from the same, or from a file of TensorFlow Serving's."""

from __future__ import annotations

import ssl
from pathlib import Path
from tempfile import TemporaryDirectory


def context_of(certificate: Path, key: Path) -> ssl.SSLContext:
    """The context of a server with this certificate and its private key, in PEM.

    Raises:
        OSError: a file can't be read, or they do not belong together (ssl.SSLError).
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


def grpc_context_of(path: Path) -> ssl.SSLContext:
    """The context of a file with an `SSLConfig` of TensorFlow Serving in protobuf text, which has key and certificates in it.

    With `client_verify` clients need a certificate of `custom_ca`.

    Raises:
        OSError, ValueError: the file can't be read, or is no SSLConfig that can be served; the message has no secret.
    """
    from darkroom.service.config.protobuf import parse_text  # noqa: PLC0415 - protobuf, only for such a file

    config = parse_text("tensorflow.serving.SSLConfig", path.read_text(encoding="utf-8"), is_secret=True)
    if config.client_verify and not config.custom_ca:
        raise ValueError("client_verify needs custom_ca, the certificates that sign the clients'")
    with TemporaryDirectory(prefix="darkroom-tls-") as folder:  # only this user may enter it
        certificate, key = Path(folder, "certificate"), Path(folder, "key")
        certificate.write_text(config.server_cert, encoding="utf-8")
        key.write_text(config.server_key, encoding="utf-8")
        try:
            context = context_of(certificate, key)
        except ssl.SSLError:
            raise ValueError(
                "server_key and server_cert are no key and certificate in PEM that belong together"
            ) from None
    if config.client_verify:
        try:
            context.load_verify_locations(cadata=config.custom_ca)
        except ssl.SSLError:
            raise ValueError("custom_ca is no certificate in PEM") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context
