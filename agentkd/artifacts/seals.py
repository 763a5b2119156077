"""The seal under which a journal has what is noted beside its records: whoever changes a note without it is seen."""

from collections.abc import Iterable

from agentkd import canonical
from agentkd.names import NO_DIGEST, Digest

SEAL = "seal"
NOTES_AND_SEAL = "SELECT key, value, '' FROM meta UNION ALL SELECT study, seen, CAST(trial AS TEXT) FROM asks"
NOTES = f"{NOTES_AND_SEAL.partition(' UNION')[0]} WHERE key <> '{SEAL}' UNION{NOTES_AND_SEAL.partition(' UNION')[2]}"
Sealed = tuple[str, str, str]
"""A note (key, value, nothing) or an ask (study, what was seen, number of the trial)."""


def seal(more: Iterable[Sealed], less: Iterable[Sealed] = (), *, since: Digest = NO_DIGEST) -> Digest:
    """The sum of the notes' digests, whatever their order: it is kept true without looking at all of them."""
    total = int(since or "0", 16) + sum(map(_number, more)) - sum(map(_number, less))
    return Digest(f"{total % 2**256:064x}")


def _number(note: Sealed) -> int:
    return int(canonical.digest(list(note)), 16)
