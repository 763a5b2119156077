"""Data written in one way."""

from typing import Any

import pytest
from pydantic import SerializerFunctionWrapHandler, model_serializer

from agentkd.canonical import FrozenData


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_is_no_error_of_what_is_being_written(end: type[BaseException]) -> None:
    class Written(FrozenData):
        @model_serializer(mode="wrap")
        def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
            raise end

    class Around(FrozenData):
        inner: Written

    for written in (Written(), Around(inner=Written())):
        with pytest.raises(end):
            written.canonical()
