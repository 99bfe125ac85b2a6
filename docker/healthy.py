"""HEALTHCHECK of the service's images: status 0 when `/readyz` says that the service can answer."""

import sys
import urllib.error
import urllib.request

URL = "http://127.0.0.1:8000/readyz"
TIMEOUT_S = 4.0


def main(url: str = URL) -> int:
    """0 when ready; 1, with the reason on standard error, when not."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S):  # noqa: S310 - a fixed address
            return 0
    except urllib.error.HTTPError as error:
        sys.stderr.write(error.read(2000).decode("utf-8", "replace") + "\n")
    except OSError as error:
        sys.stderr.write(f"no answer from {url}: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
