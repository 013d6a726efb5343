"""The image's HEALTHCHECK, since the image has no curl: exits with 0 if the server is ready, else with 1.

It asks port DARKROOM_PORT, so set the port by that variable and not by a flag. Kubernetes sets this variable to a URL
for a Service called `darkroom`; the server ignores that, and so does this. It uses `http.client`, because urllib's
redirects and proxies would double the 30 ms that a probe takes.
"""  # noqa: INP001 - a program, not a package

import http.client
import os
import ssl
import sys


def connect(port: int) -> http.client.HTTPConnection:
    """Returns a connection to the server of this container.

    A certificate is not checked: it is valid for the public name, not for loopback.
    """
    if os.environ.get("DARKROOM_ENABLE_SSL", "").lower() in {"true", "1", "yes", "on", "t", "y"}:
        unchecked = ssl._create_unverified_context()  # noqa: SLF001, S323 - loopback, see above
        return http.client.HTTPSConnection("127.0.0.1", port, timeout=2, context=unchecked)
    return http.client.HTTPConnection("127.0.0.1", port, timeout=2)


def is_ready() -> bool:
    """Returns whether `/v2/health/ready` answers 200 within two seconds."""
    port = os.environ.get("DARKROOM_PORT", "")
    connection = connect(int(port) if port.isdecimal() else 8500)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not is_ready())
