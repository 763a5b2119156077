"""CURVE key pairs: one for each agent, secret files readable by their owner alone."""

import errno
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import zmq

from agentkd.durable import NOT_THERE, discard, make_folder
from agentkd.errors import ConfigError, StorageError, check_descriptors
from agentkd.names import PublicKey
from agentkd.plain import read_file, read_json

MAX_KEY_FILE = 2**16
NEW_KEY = "make one with: agentkd keys new NAME"


@dataclass(frozen=True)
class KeyPair:
    """A Z85-encoded CURVE key pair. ``repr`` shows the public half only."""

    public: PublicKey
    secret: str

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public!r})"

    def line(self) -> str:
        """Both halves as one line of JSON, as in a key file: for the standard input of whoever is to have them."""
        return json.dumps(asdict(self)) + "\n"


def default_key_folder() -> Path:
    """Where the commands keep keys unless told otherwise: ``$AGENTKD_KEYS`` or ``~/.config/agentkd/keys``."""
    return Path(os.environ.get("AGENTKD_KEYS") or Path.home() / ".config" / "agentkd" / "keys")


def new_key_pair() -> KeyPair:
    """A fresh key pair."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public=PublicKey(public.decode()), secret=secret.decode())


def save_key_pair(path: Path, pair: KeyPair) -> None:
    """Writes the pair as a new 0600 file in a 0700 folder.

    Raises:
        StorageError: the file exists already or cannot be written.
    """
    write_private(path, pair.line().rstrip())


def load_key_pair(path: Path) -> KeyPair:
    """Reads a pair.

    Raises:
        ConfigError: no such file, not a key pair, or readable by others.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others; run: chmod 600 {path}")
        return _read_pair(read_file(path, max_bytes=MAX_KEY_FILE))
    except ConfigError:
        raise
    except OSError as error:
        check_descriptors(path, error)
        raise ConfigError(f"key file {path} cannot be read: {error.strerror or error}; {NEW_KEY}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} is not a key file: {error}; {NEW_KEY}") from error


def hear_key_pair(said: BinaryIO) -> KeyPair:
    """Reads a pair as ``KeyPair.line`` writes it, and no octet more.

    Args:
        said: unbuffered, so that what follows is left to whoever reads on.

    Raises:
        ConfigError: something else was said.
    """
    try:
        return _read_pair(said.readline(MAX_KEY_FILE))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"standard input does not say a key: {error}; expected what a key file holds, in one line") from None


def _read_pair(text: bytes) -> KeyPair:
    found = read_json(text)
    pair = KeyPair(PublicKey(found["public"]), found["secret"])
    if pair.public != zmq.curve_public(pair.secret.encode()).decode():
        raise ValueError("its two halves do not belong together")
    return pair


def write_private(path: Path, text: str, *, replace: bool = False) -> None:
    """Writes a 0600 file in a 0700 folder; the file appears whole or not at all.

    Raises:
        StorageError: it exists and may not be replaced, or cannot be written.
    """
    try:
        make_folder(path.parent, mode=0o700)
        _keep_from_others(path.parent)
        handle, written = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if replace or not _linked(written, path):
                Path(written).replace(path)
        finally:
            discard(Path(written))
    except OSError as error:
        raise StorageError.of(path, error) from error


def _linked(written: str, path: Path) -> bool:
    """Whether a file has got its name, which must be new; false where a file system knows no second names."""
    try:
        os.link(written, path)
    except OSError as error:
        if error.errno not in (*NOT_THERE, errno.EPERM) or os.path.lexists(path):
            raise
        return False
    return True


def _keep_from_others(folder: Path) -> None:
    try:
        folder.chmod(0o700)
    except OSError:  # some file systems know no modes; one may be private all the same
        if folder.stat().st_mode & 0o077:
            raise
