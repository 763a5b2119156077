"""Data written in one way."""

from typing import Any

import pytest
from pydantic import SerializerFunctionWrapHandler, model_serializer

from agentkd.canonical import FrozenData
from agentkd.code.running import EndedBySignal


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, EndedBySignal])
def test_what_ends_a_program_is_no_error_of_what_is_being_written(end: type[BaseException]) -> None:
    class Written(FrozenData):
        @model_serializer(mode="wrap")
        def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
            raise end(143) if end is EndedBySignal else end

    class Around(FrozenData):
        inner: Written

    class Itself(FrozenData):
        inner: Written

        @model_serializer(mode="wrap")
        def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
            return dict(handler(self))

    class Further(Itself):
        more: tuple[Itself, ...]

    itself = Itself(inner=Written())
    for written in (Written(), Around(inner=Written()), itself, Further(inner=Written(), more=(itself,))):
        with pytest.raises(end) as thrown:
            written.canonical()
        assert end is not EndedBySignal or thrown.value.args == (143,)


def test_what_is_wrong_in_what_is_written_stays_an_error_of_it_at_any_depth() -> None:
    class Written(FrozenData):
        @model_serializer(mode="wrap")
        def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
            raise ValueError("x: KeyboardInterrupt: no")

    class Around(FrozenData):
        inner: Written

        @model_serializer(mode="wrap")
        def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
            return dict(handler(self))

    for written in (Written(), Around(inner=Written())):
        with pytest.raises(ValueError, match="x: KeyboardInterrupt: no"):
            written.canonical()
