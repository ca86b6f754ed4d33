"""Stand-in until the export side lands."""

import json
from typing import Any, NamedTuple


class Described(NamedTuple):
    layer: str
    distribution: str
    config: dict[str, Any]
    params: list[str]


def described(text: str) -> Described | None:
    try:
        e = json.loads(text)
        return Described(e["layer"], e["distribution"], e["config"], e["params"])
    except Exception:
        return None
