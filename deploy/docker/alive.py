"""Exit with 0 if the service in this container is ready: it is asked, at the address given or the gateway's own.

Without an address, what is no gateway is well while its process is there.
"""

import sys
import urllib.request
from pathlib import Path


def main() -> int:
    """Ask."""
    words = [place.read_bytes().split(b"\0") for place in Path("/proc").glob("[0-9]*/cmdline")]
    ours = next((each for each in words if any(word.endswith(b"/runstore") for word in each[:2])), [])
    if not ours:
        return 1
    if len(sys.argv) == 1 and b"gateway" not in ours:
        return 0
    address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/readyz"
    try:
        with urllib.request.urlopen(address, timeout=4) as answer:  # noqa: S310 - the caller's own address
            return 0 if answer.status == 200 else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
