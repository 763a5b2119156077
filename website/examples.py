"""What the reader of docstrings is told: ours say ``Example:`` where it knows ``Examples:``."""

from typing import Any

import griffe


class OneExample(griffe.Extension):
    """Has an example shown as code, and not as text in which brackets are links."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
