"""What the driver reads and writes."""

from typing import Any, TypeAlias

Document: TypeAlias = dict[str, Any]
