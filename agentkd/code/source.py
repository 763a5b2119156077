"""A user's own code as data: the text of some modules as one artifact, which goes by the digest of its bytes.

Which modules belong to it is found out in ``collecting``; they are run in ``loading``. Nothing here reads a file or runs code.
"""

import json
import sys
import unicodedata
from typing import Annotated, Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, field_validator, model_serializer

from agentkd import canonical
from agentkd.errors import ArtifactError, ConfigError
from agentkd.names import NO_DIGEST, Digest

FORMAT = "agentkd-code"
VERSION = 1
MAX_FILES = 500
MAX_BYTES = 4 * 2**20
MAX_PATH = 255
INIT = "__init__"
STANDARD = sys.stdlib_module_names | set(sys.builtin_module_names)
"""Top-level names that are Python's own."""
RESERVED = STANDARD | {"agentkd", "__main__", INIT}
"""Top-level names that own code cannot have."""
CodeDigest = Annotated[Digest, Field(pattern=r"^([0-9a-f]{64})?$")]


class Named(canonical.FrozenData):
    """What names something that may be a user's own, with the digest of the code in which that name is found.

    The canonical form has no empty ``code``: what is agentkd's goes by the digest that it always had.

    Args:
        code: empty for what is agentkd's, and in what an older version made, which kept no code.
    """

    code: CodeDigest = NO_DIGEST

    @model_serializer(mode="wrap")
    def _leave_out_no_code(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return self.without_no_code(handler(self))

    @staticmethod
    def without_no_code(plain: dict[str, Any]) -> dict[str, Any]:
        """The canonical form of something named, without an empty ``code``."""
        return {name: value for name, value in plain.items() if (name, value) != ("code", NO_DIGEST)}


class SourceCode(canonical.FrozenData):
    """The text of a user's own modules by path, such as ``my_nets.py`` or ``pkg/sub/x.py``. Its digest is its artifact's.

    The digest depends on nothing but paths and text: not on where the files lay, nor on the order in which they were found. Line
    ends are single line feeds here, however a file was checked out (CRLF, CR): Python reads them so too, even in a string.

    Args:
        files: at most 500, of at most 4 MiB as an artifact. A path is relative, of identifiers joined by ``/``, ends in ``.py``,
            and has at most 255 characters. No two differ only in case, none is a module beside a package of its name, and none
            is at the top named like a module of the standard library or like agentkd.
    """

    files: dict[str, str]

    @field_validator("files")
    @classmethod
    def _check(cls, files: dict[str, str]) -> dict[str, str]:
        if not 0 < len(files) <= MAX_FILES:
            raise ValueError(f"has {len(files)} files; expected 1 to {MAX_FILES}")
        _check_paths(files)
        plain = {path: text.replace("\r\n", "\n").replace("\r", "\n") for path, text in files.items()}
        size_bytes = len(canonical.encode(_as_data(plain)))
        if size_bytes > MAX_BYTES:
            raise ValueError(f"has {size_bytes:,} bytes as an artifact; at most {MAX_BYTES:,} are kept")
        return plain

    def canonical(self) -> Any:
        """The artifact as plain JSON data: the files, the format and its version."""
        return _as_data(self.files)

    def encode(self) -> bytes:
        """The artifact's bytes, whose SHA-256 is ``digest``."""
        return canonical.encode(self.canonical())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The code of which these are the bytes.

        Raises:
            ArtifactError: they are not exactly what ``encode`` gives.
        """
        try:
            if len(data) > MAX_BYTES:
                raise ValueError(f"has {len(data):,} bytes; at most {MAX_BYTES:,} are kept")
            match json.loads(data):
                case {"format": format, "version": version, "files": dict(files)} if format == FORMAT:
                    pass
                case _:
                    raise ValueError(f"is not of the format {FORMAT}")
            if version != VERSION:
                raise ValueError(f"is of version {str(version)[:20]}; this agentkd reads version {VERSION}")
            if len(files) > MAX_FILES:
                raise ValueError(f"has {len(files):,} files; expected 1 to {MAX_FILES}")
            code = cls(files=files)
            if code.encode() != data:
                raise ValueError("is not in its canonical form")
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"an artifact that should be code is none: {why(error)}") from None
        return code

    @property
    def modules(self) -> dict[str, str]:
        """Dotted name of each module, and the path of its file."""
        return {module_of(path): path for path in self.files}


def module_of(path: str) -> str:
    """The dotted name of the module in a file.

    Example:
        >>> module_of("pkg/__init__.py"), module_of("pkg/sub/x.py")
        ('pkg', 'pkg.sub.x')
    """
    return path.removesuffix(".py").removesuffix("/" + INIT).replace("/", ".")


def split_name(name: str) -> tuple[str, str]:
    """Module and attribute of ``package.module:attribute``.

    Raises:
        ConfigError: it is no such name.
    """
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), attribute]) or attribute.startswith("__"):
        raise ConfigError(f"{name!r} names nothing of your own: expected package.module:attribute, such as my_nets:Small")
    return module, attribute


def why(error: Exception) -> str:
    """What a refusal says, in one line."""
    if isinstance(error, ValidationError):
        return str(error.errors(include_input=False)[0]["msg"]).removeprefix("Value error, ")
    return str(error)


def _as_data(files: dict[str, str]) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "files": files}


def _check_paths(files: dict[str, str]) -> None:
    """Refuses paths that are unsafe, or of which one could be taken for another.

    Raises:
        ValueError: with the path.
    """
    spelled: dict[str, str] = {}
    modules, folders = set(), set()
    for path in sorted(files):
        parts = path.removesuffix(".py").split("/")
        if not path.endswith(".py") or len(path) > MAX_PATH or not all(map(_is_plain, parts)):
            raise ValueError(f"{path[:MAX_PATH]!r} is no path of a module, such as my_nets.py or pkg/sub/x.py")
        if parts[0] in RESERVED:
            raise ValueError(f"{path!r} has the name of a module that is not yours ({parts[0]}); give it another")
        above = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        for name in [*above, "/".join(parts)]:
            if spelled.setdefault(name.casefold(), name) != name:
                raise ValueError(f"{name!r} and {spelled[name.casefold()]!r} differ only in case; rename one")
        modules.add("/".join(parts))
        folders.update(above)
    if both := sorted(modules & folders):
        raise ValueError(f"{both[0]!r} is a module and a package; rename one")


def _is_plain(part: str) -> bool:
    return part.isidentifier() and unicodedata.is_normalized("NFKC", part)
