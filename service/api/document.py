"""Writes the OpenAPI document: `python -m service.api.document docs/openapi.json` (make openapi).

The document is committed; a test fails when it and the routes drift apart.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from service.api.app import assemble


def document_text() -> str:
    """The OpenAPI document as it is committed: indented, keys sorted, one line feed at the end."""
    return json.dumps(assemble().openapi(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> None:
    """Write the document to the one path given."""
    if len(arguments) != 1:
        sys.exit("usage: python -m service.api.document PATH")
    Path(arguments[0]).write_text(document_text(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
