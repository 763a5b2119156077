"""Shared memory: leases, reuse, loss of either side, and handles that are not what they should be."""

import contextlib
import fcntl
import gc
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from sides import wait_until

from agentkd.errors import ExchangeError, RemoteProtocolError
from agentkd.exchange.segments import SEALS, Segment, SegmentPool, read_segment
from agentkd.messages.handles import SharedHandle

PEER, OTHER = "p" * 40, "o" * 40
OWNER = """
import sys, time
from agentkd.exchange.segments import SegmentPool
pool = SegmentPool()
segment = pool.take(64 * 1024 * 1024)
segment.view[:5] = b"hello"
segment.view[-1:] = b"!"
print(pool.lease("p" * 40, segment).model_dump_json(), flush=True)
time.sleep(60)
"""
READER = """
import sys, time
from agentkd.exchange.segments import read_segment
from agentkd.messages.handles import SharedHandle
view = read_segment(SharedHandle.model_validate_json(sys.argv[1]), 10)
print("ok", flush=True)
time.sleep(60)
"""


def shared_bytes() -> int:
    """Shared memory of the whole system."""
    return psutil.virtual_memory().shared


def open_descriptors() -> int:
    """Descriptors of segments in this process; mappings that nobody refers to any more do not count."""
    gc.collect()
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(str(entry.readlink()))
    return sum(link.startswith("/memfd:agentkd") for link in links)


def test_another_process_reads_what_the_owner_wrote() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        try:
            handle = SharedHandle.model_validate_json(owner.stdout.readline())
            view = read_segment(handle, 64 * 1024 * 1024)
            assert bytes(view[:5]) == b"hello" and bytes(view[-1:]) == b"!"
        finally:
            owner.kill()


def test_what_was_mapped_stays_readable_after_the_owner_was_killed_and_nothing_is_left() -> None:
    before = set(Path("/dev/shm").iterdir())
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        handle = SharedHandle.model_validate_json(owner.stdout.readline())
        view = read_segment(handle, 5)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        assert bytes(view) == b"hello"
        with pytest.raises(ExchangeError, match="not to be had"):
            read_segment(handle, 5)
    assert set(Path("/dev/shm").iterdir()) == before, "a memory file has no name that could be left behind"


def test_a_segment_is_used_again_only_after_everybody_let_go() -> None:
    pool = SegmentPool()
    first = pool.take(10_000)
    handle, again = pool.lease(PEER, first), pool.lease(OTHER, first)
    pool.give(first)
    assert pool.take(10_000) is not first
    pool.release(OTHER, (handle.lease,))
    assert pool.num_leases == 2, "a lease is released by whoever holds it"
    pool.release(PEER, (handle.lease,))
    pool.release(PEER, (handle.lease,))
    pool.release(OTHER, (again.lease, 999))
    assert pool.num_leases == 0 and pool.take(10_000) is first


@pytest.mark.parametrize("size", [10, 10_000, 2 * 1024**2])
def test_what_is_read_is_what_its_owner_has_put_there_now_not_what_was_there_when_it_was_read_first(size: int) -> None:
    pool, seen = SegmentPool(), []
    for number in range(3):
        segment = pool.take(size)
        segment.view[:size] = bytes([number]) * size
        handle = pool.lease(PEER, segment)
        pool.give(segment)
        view = read_segment(handle, size)
        assert bytes(view) == bytes([number]) * size
        view[:] = b"x" * size  # it may be worked on in place
        seen.append(handle.inode)
        pool.release(PEER, (handle.lease,))
    assert len(set(seen)) == 1, "the memory was used again, which this is about"
    pool.close()


def test_of_a_segment_the_piece_alone_is_mapped_whatever_else_the_file_holds() -> None:
    descriptor = os.memfd_create("agentkd", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 2**40)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    os.pwrite(descriptor, b"piece", 2**39 + 5_000)
    handle = SharedHandle(
        pid=os.getpid(), descriptor=descriptor, inode=os.fstat(descriptor).st_ino, offset=2**39 + 5_000, lease=1
    )
    before = psutil.Process().memory_info()
    view = read_segment(handle, 5)
    after = psutil.Process().memory_info()
    assert bytes(view) == b"piece"
    assert after.rss - before.rss < 8 * 1024**2 and after.vms - before.vms < 8 * 1024**2
    assert os.fstat(descriptor).st_blocks * 512 < 8 * 1024**2, "reading made memory of what is beside it"
    os.close(descriptor)


def test_what_a_lost_peer_held_is_never_used_again_and_its_descriptor_is_closed() -> None:
    pool, before = SegmentPool(), open_descriptors()
    segment = pool.take(10_000)
    pool.lease(PEER, segment)
    pool.give(segment)
    pool.peer_gone(PEER)
    assert pool.num_leases == 0 and open_descriptors() == before
    assert pool.take(10_000) is not segment
    pool.close()


def test_leases_that_nobody_gives_back_are_bounded() -> None:
    pool, before = SegmentPool(), open_descriptors()
    for _ in range(300):
        segment = pool.take(8_192)
        pool.lease(PEER, segment)
        pool.give(segment)
    assert pool.num_leases == 64 and open_descriptors() - before <= 2 * 65
    pool.close()
    del segment
    assert open_descriptors() == before


def test_the_pool_keeps_no_more_than_its_capacity() -> None:
    pool, before = SegmentPool(capacity_bytes=100_000), open_descriptors()
    for segment in [pool.take(60_000) for _ in range(5)]:
        pool.give(segment)
    assert open_descriptors() - before == 2
    pool.close()


def test_writing_to_what_was_read_does_not_reach_the_owner() -> None:
    pool = SegmentPool()
    segment = pool.take(4096)
    segment.view[:1] = b"a"
    view = read_segment(pool.lease(PEER, segment), 4096)
    view[:1] = b"b"
    assert bytes(segment.view[:1]) == b"a"
    pool.close()


def test_several_threads_may_read_at_once() -> None:
    segments = [Segment(1) for _ in range(94)]
    for number, segment in enumerate(segments):
        segment.view[:2] = number.to_bytes(2)
    handles = [segment.handle(lease=1) for segment in segments]

    def read(start: int) -> bool:
        order = [(start + 7 * step) % len(handles) for step in range(20 * len(handles))]
        return all(int.from_bytes(read_segment(handles[number], 2)) == number for number in order)

    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(read, range(0, 40, 10)))
    finally:
        sys.setswitchinterval(often)
    for segment in segments:
        segment.close()


def test_a_handle_that_is_not_a_sealed_segment_of_agentkd_is_refused(tmp_path: Path) -> None:
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    unsealed = os.memfd_create("agentkd", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, 4096)
    pool = SegmentPool()
    for descriptor, error in ((file, RemoteProtocolError), (unsealed, RemoteProtocolError), (9_999, ExchangeError)):
        inode = os.fstat(descriptor).st_ino if descriptor < 9_999 else 1
        with pytest.raises(error):
            read_segment(SharedHandle(pid=os.getpid(), descriptor=descriptor, inode=inode, offset=0, lease=1), 10)
    good = pool.lease(PEER, pool.take(4096))
    with pytest.raises(ExchangeError, match="given up"):
        read_segment(good.model_copy(update={"inode": 1}), 10)
    with pytest.raises(RemoteProtocolError, match="more than the segment holds"):
        read_segment(good, 4097)
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(good.descriptor, 10)
    assert fcntl.fcntl(good.descriptor, fcntl.F_GET_SEALS)
    for descriptor in (file, unsealed):
        os.close(descriptor)
    pool.close()


def test_memory_returns_to_the_system_when_a_reader_is_killed_too() -> None:
    pool = SegmentPool()
    segment = pool.take(64 * 1024**2)
    segment.view[:] = bytes(segment.capacity)
    handle = pool.lease(PEER, segment)
    command = [sys.executable, "-c", READER, handle.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout.readline() == "ok\n"
        reader.send_signal(signal.SIGKILL)
        reader.wait()
    held = shared_bytes()
    pool.give(segment)
    pool.peer_gone(PEER)
    del segment
    wait_until(lambda: shared_bytes() < held - 48 * 1024**2)
