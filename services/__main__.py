"""`python -m services [name ...]`: all services in one process, or those named. The only composition root."""

from __future__ import annotations

import sys

from services.server import serve

if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
