"""How a piece of knowledge gets from one process to another: the shortest way that both sides can go, chosen here alone.

``device`` if both compute on one GPU and the piece lies there; ``store`` if both see one folder of artifacts and the piece lies
there; ``shared`` if both are on one host; ``inline`` if it is short, or both are in one process; ``stream`` otherwise. The bytes
are the same on every way.
"""

import contextlib
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from agentkd.artifacts.store import Store
from agentkd.canonical import digest_bytes, new_digest
from agentkd.errors import AgentKDError, ArtifactCorruptError, ChannelClosedError, ExchangeError, RemoteProtocolError, Rule
from agentkd.exchange.blocks import BlockPool, Mapped, Mappings
from agentkd.exchange.cuda import Gpu
from agentkd.exchange.memory import SCHEME
from agentkd.exchange.post import Post
from agentkd.exchange.segments import IS_SUPPORTED, SegmentPool, read_segment
from agentkd.exchange.sources import BufferSink, BytesSource, FileSource, Parcel, Sink
from agentkd.exchange.streaming import ANYWAY, Leave, Receipt
from agentkd.exchange.streams import CHUNK_BYTES, WINDOW_BYTES, Inflow
from agentkd.messages.bodies import Capability, Piece, ReleaseEvent, Way
from agentkd.messages.handles import DeviceHandle
from agentkd.messages.wire import Buffer
from agentkd.names import NO_DIGEST, Digest, PublicKey

INLINE_BYTES = 256 * 1024
DEVICE_BYTES = 64 * 1024  # what is on a GPU is worth leaving there sooner
MAX_PIECE_BYTES = 16 * 1024**3
POLL_S = 0.5
ALL_WAYS = tuple(Way)
Land = Callable[[Any], Any]

log = logging.getLogger(__name__)


@dataclass
class Fetched:
    """Bytes that were handed over. ``data`` may be read until ``release``; afterwards its owner uses the memory again.

    What came in GPU memory is not there, but in ``landed``, as what ``land`` made of it, for good.
    """

    data: memoryview
    way: Way
    _give_back: Callable[[], None] = field(default=lambda: None, repr=False)
    landed: Any = None

    def release(self) -> None:
        """Says that ``data`` is not read any more. May be called twice."""
        give_back, self._give_back = self._give_back, lambda: None
        give_back()


class Carrier:
    """Hands pieces over and takes them, for one post. Thread-safe; what blocks waits for the I/O thread.

    Args:
        store: this process's artifacts.
        ways: those that may be used; fewer for tests and for hosts where one does not work.
        gpu: that on which this process computes, if pieces may be handed over in its memory.

    ``ways`` are those that any peer may be asked to take; ``device`` is only for whoever says that it computes on the same GPU.
    """

    def __init__(
        self,
        post: Post,
        store: Store | None = None,
        *,
        ways: tuple[Way, ...] = ALL_WAYS,
        chunk_bytes: int = CHUNK_BYTES,
        window_bytes: int = WINDOW_BYTES,
        gpu: Gpu | None = None,
    ) -> None:
        self._post, self._store = post, store
        numbers = itertools.count(1)
        self.pool, self.num_repeated_bytes = SegmentPool(numbers=numbers), 0
        self._lock = threading.Lock()
        self._chunk_bytes, self._window_bytes = chunk_bytes, window_bytes
        self._in_process = post.endpoint.startswith(SCHEME)
        self.ways = tuple(way for way in ways if way is not Way.DEVICE and (way is not Way.SHARED or IS_SUPPORTED))
        self.gpu = gpu if Way.DEVICE in ways and not self._in_process else None
        self.blocks = BlockPool(self.gpu, numbers=numbers) if self.gpu else None
        self._mappings = Mappings(self.gpu) if self.gpu else None
        self._not_by_device: set[PublicKey] = set()

    def close(self) -> None:
        """Gives shared memory up."""
        self.pool.close()
        if self.blocks and self._mappings:
            self._mappings.close()
            self.blocks.close()

    def ways_to(self, peer: PublicKey) -> tuple[Way, ...]:
        """Those by which a peer may be asked for what is to be used on this process's GPU."""
        return (Way.DEVICE, *self.ways) if self._shares_gpu(peer) and peer not in self._not_by_device else self.ways

    def release(self, peer: PublicKey, leases: tuple[int, ...]) -> None:
        """Takes leases back that this peer holds."""
        self.pool.release(peer, leases)
        if self.blocks:
            self.blocks.release(peer, leases)

    def peer_gone(self, peer: PublicKey) -> None:
        """Drops what a lost peer held."""
        self.pool.peer_gone(peer)
        if self.blocks:
            self.blocks.peer_gone(peer)

    def part(self, peer: PublicKey) -> None:
        """Lets go of what is mapped of a peer's GPU memory. For the thread that fetches."""
        if self._mappings:
            self._mappings.part(peer)

    @property
    def num_leases(self) -> int:
        """Leases that peers hold."""
        return self.pool.num_leases + (self.blocks.num_leases if self.blocks else 0)

    # Handing over.

    def allocate(self, size_bytes: int, ways: tuple[Way, ...] = ()) -> Parcel:
        """Memory for a piece that is about to be made: shared if it is long enough to be worth it.

        GPU memory, if there is some, for who takes the piece by these ways.
        """
        is_shared = (
            Way.SHARED in self.ways and not self._in_process and (size_bytes > INLINE_BYTES or Way.INLINE not in self.ways)
        )
        on_device = Way.DEVICE in ways and size_bytes > DEVICE_BYTES
        return Parcel(size_bytes, self.pool if is_shared else None, self.blocks if on_device else None)

    def pack(
        self, peer: PublicKey, parcel: Parcel, ways: tuple[Way, ...], leave: Leave = ANYWAY
    ) -> tuple[Piece, tuple[Buffer, ...]]:
        """A piece in memory for a peer that can take it by these ways: the message part, and the buffers to go with it.

        If it is to be streamed, it is as long as there is ``leave``.

        Raises:
            ExchangeError: there is no way in common.
        """
        common, size = self._common(ways), parcel.size_bytes
        if self._in_process:
            return Piece(way=Way.INLINE, size_bytes=size), (parcel.view,)
        if parcel.block is not None and self.blocks and Way.DEVICE in ways and self._shares_gpu(peer):
            return Piece(way=Way.DEVICE, size_bytes=size, block=self.blocks.lease(peer, parcel.block)), ()
        if Way.INLINE in common and size <= INLINE_BYTES:
            return Piece(way=Way.INLINE, size_bytes=size, sha256=parcel.sha256), (parcel.view,)
        if parcel.segment is not None and Way.SHARED in common and self._shares_memory(peer):
            return Piece(way=Way.SHARED, size_bytes=size, handle=self.pool.lease(peer, parcel.segment)), ()
        if Way.STORE in common and self._shares_store(peer) and self._store is not None:
            return Piece(way=Way.STORE, size_bytes=size, sha256=self._store.put(bytes(parcel.view))), ()
        source = parcel.source()
        if Way.STREAM in common:
            return self._offer(peer, source, leave)
        if Way.INLINE in common:
            return Piece(way=Way.INLINE, size_bytes=size, sha256=parcel.sha256), (source.view,)
        raise ExchangeError(f"{size} bytes for {peer[:8]}: no way in common ({', '.join(self.ways)} and {', '.join(ways)})")

    def pack_stored(
        self, peer: PublicKey, digest: Digest, ways: tuple[Way, ...], leave: Leave = ANYWAY
    ) -> tuple[Piece, tuple[Buffer, ...]]:
        """An artifact for a peer that can take it by these ways; as ``pack``.

        Raises:
            ArtifactNotFoundError: it is not in the store.
            ExchangeError: there is no way in common.
        """
        assert self._store is not None
        path, common = self._store.must_have(digest), self._common(ways)
        size = path.stat().st_size
        if Way.STORE in common and self._shares_store(peer):
            return Piece(way=Way.STORE, size_bytes=size, sha256=digest), ()
        if Way.STREAM in common and size > INLINE_BYTES and not self._in_process and not self._shares_memory(peer):
            return self._offer(peer, FileSource(path, digest), leave)
        parcel = self.allocate(size)
        try:
            parcel.view[:] = self._store.get(digest)
            return self.pack(peer, parcel, ways, leave)
        finally:
            parcel.close()

    # Taking.

    def fetch_to_store(
        self,
        peer: PublicKey,
        piece: Piece,
        buffers: tuple[Buffer, ...] = (),
        *,
        wanted: Digest = NO_DIGEST,
        check: Callable[[], None] = lambda: None,
        progress: Callable[[int, int], None] = lambda done, size: None,
    ) -> Digest:
        """Puts a piece into the store; returns its digest, which is the ``wanted`` one, if one was asked for.

        A stream that breaks off, even with this process, goes on later.

        Raises:
            ArtifactCorruptError: another digest; nothing is stored.
            StorageError: the disk is full or not writable.
            AgentKDError: as ``fetch``.
        """
        assert self._store is not None
        if wanted and piece.sha256 not in (NO_DIGEST, wanted):
            raise ArtifactCorruptError(f"piece from {peer[:8]}", wanted, piece.sha256)
        _check_size(piece)
        expected = piece.sha256 or wanted
        if expected and expected in self._store:
            return expected
        if piece.way is not Way.STREAM:
            fetched = self.fetch(peer, piece, buffers, check=check)
            try:
                data = bytes(fetched.data)  # its owner may still write into shared memory
            finally:
                fetched.release()
            digest = digest_bytes(data)
            if expected and digest != expected:
                raise ArtifactCorruptError(f"piece from {peer[:8]}", expected, digest)
            return self._store.put(data)
        with self._store.incoming(piece.sha256) as part:
            part.must_fit(piece.size_bytes)
            try:
                for done in self._stream(peer, piece, part, min(part.size_bytes, piece.size_bytes), check):
                    progress(done, piece.size_bytes)
            except (RemoteProtocolError, ArtifactCorruptError):
                part.remove()  # what such a peer has sent is nothing to go on with
                raise
            part.commit()
        return piece.sha256

    def fetch(
        self,
        peer: PublicKey,
        piece: Piece,
        buffers: tuple[Buffer, ...] = (),
        *,
        check: Callable[[], None] = lambda: None,
        progress: Callable[[int, int], None] = lambda done, size: None,
        land: Land | None = None,
    ) -> Fetched:
        """The bytes of a piece, checked against its digest wherever they come from disk or from another host. Blocks.

        ``check`` is called while waiting and raises to stop; ``progress`` is told how many bytes of how many are there. Who may
        be handed a piece in GPU memory says how to ``land`` it: a copy, which is complete when it returns.

        Raises:
            RemoteProtocolError: the peer does not send what it said.
            ArtifactCorruptError: another digest.
            ExchangeError: the bytes are not to be had by this way now; ask again with other ways.
        """
        _check_size(piece)
        if piece.way is Way.INLINE:
            return self._take_inline(peer, piece, buffers)
        if piece.way is Way.SHARED:
            return self._take_shared(peer, piece)
        if piece.way is Way.DEVICE:
            return self._take_device(peer, piece, land)
        if piece.way is Way.STORE:
            if self._store is None:
                raise ExchangeError("this process has no store")
            return Fetched(memoryview(self._store.get(piece.sha256)), Way.STORE)
        return self._take_stream(peer, piece, check, progress)

    def _take_inline(self, peer: PublicKey, piece: Piece, buffers: tuple[Buffer, ...]) -> Fetched:
        if len(buffers) != 1 or len(buffers[0]) != piece.size_bytes:
            raise RemoteProtocolError("an inline piece needs one buffer of the size it names", Rule.BODY)
        if not self._in_process and digest_bytes(buffers[0]) != piece.sha256:
            raise ArtifactCorruptError(f"piece from {peer[:8]}", piece.sha256, digest_bytes(buffers[0]))
        return Fetched(memoryview(buffers[0]), Way.INLINE)

    def _take_shared(self, peer: PublicKey, piece: Piece) -> Fetched:
        if piece.handle is None:
            raise RemoteProtocolError("a shared piece needs a handle", Rule.BODY)
        lease = piece.handle.lease
        view = read_segment(piece.handle, piece.size_bytes)

        def give_back() -> None:
            with contextlib.suppress(ChannelClosedError):
                self._post.send(peer, ReleaseEvent(leases=(lease,)))

        return Fetched(view, Way.SHARED, give_back)

    def _take_device(self, peer: PublicKey, piece: Piece, land: Land | None) -> Fetched:
        """Copies a piece to where it is used, and releases it at once."""
        if piece.block is None or land is None or self._mappings is None:
            raise RemoteProtocolError("a piece in GPU memory needs a handle, and somebody who asked for it so", Rule.BODY)
        try:
            found = self._find_mapped(self._mappings, peer, piece.block, piece.size_bytes)
            landed = land(found.array)
            found.check()
        finally:
            with contextlib.suppress(ChannelClosedError):
                self._post.send(peer, ReleaseEvent(leases=(piece.block.lease,)))
        return Fetched(memoryview(b""), Way.DEVICE, landed=landed)

    def _find_mapped(self, mappings: Mappings, peer: PublicKey, handle: DeviceHandle, size_bytes: int) -> Mapped:
        try:
            return mappings.find(peer, handle, size_bytes)
        except ExchangeError as error:
            log.warning("nothing of %s is taken in GPU memory from now on: %s", peer[:8], error)
            self._not_by_device.add(peer)
            raise

    def _take_stream(
        self, peer: PublicKey, piece: Piece, check: Callable[[], None], progress: Callable[[int, int], None]
    ) -> Fetched:
        """Receives into pooled memory, and hashes what is there while the rest arrives."""
        size = piece.size_bytes
        segment = self.pool.take(size) if IS_SUPPORTED else None
        target = segment.view[:size] if segment else memoryview(bytearray(size))

        def give_back() -> None:
            if segment:
                self.pool.give(segment)

        hasher, hashed = new_digest(), 0
        try:
            for done in self._stream(peer, piece, BufferSink(target), 0, check):
                hasher.update(target[hashed:done])
                hashed = done
                progress(done, size)
            if (actual := Digest(hasher.hexdigest())) != piece.sha256:
                raise ArtifactCorruptError(f"stream from {peer[:8]}", piece.sha256, actual)
        except BaseException:
            self._post.channel.call(give_back)  # after the stream was cancelled there: nobody writes any more
            raise
        return Fetched(target, Way.STREAM, give_back)

    def _stream(self, peer: PublicKey, piece: Piece, sink: Sink, offset: int, check: Callable[[], None]) -> Iterator[int]:
        """Receives a stream; yields how many bytes are there, each time more are."""
        if not piece.sha256:
            raise RemoteProtocolError("a streamed piece needs its digest", Rule.BODY)
        news: queue.SimpleQueue[int | AgentKDError | None] = queue.SimpleQueue()
        flow = Inflow(piece.size_bytes, offset, window_bytes=self._window_bytes)
        receipt = Receipt(
            peer=peer,
            sha256=piece.sha256,
            flow=flow,
            sink=sink,
            chunk_bytes=min(self._chunk_bytes, self._window_bytes),
            progress=news.put,
            done=news.put,
        )
        self._post.channel.call(lambda: self._post.streams.open(receipt))
        try:
            while True:
                try:
                    item = news.get(timeout=POLL_S)
                except queue.Empty:
                    check()
                    continue
                if isinstance(item, AgentKDError):
                    raise item
                if item is None:
                    return
                yield item
        finally:
            with self._lock:
                self.num_repeated_bytes += flow.num_repeated_bytes
            self._post.channel.call(lambda: self._post.streams.cancel(receipt))

    # What both sides can.

    def _common(self, ways: tuple[Way, ...]) -> tuple[Way, ...]:
        return tuple(way for way in self.ways if way in ways)

    def _offer(
        self, peer: PublicKey, source: BytesSource | FileSource, leave: Leave = ANYWAY
    ) -> tuple[Piece, tuple[Buffer, ...]]:
        self._post.channel.call(lambda: self._post.streams.offer(peer, source, leave))
        return Piece(way=Way.STREAM, size_bytes=source.size_bytes, sha256=source.sha256), ()

    def _shares_memory(self, peer: PublicKey) -> bool:
        known = self._post.peer(peer)
        return known is not None and known.can(Capability.SHARED) and known.shares_host

    def _shares_gpu(self, peer: PublicKey) -> bool:
        known = self._post.peer(peer)
        return self.gpu is not None and known is not None and known.shares_host and known.greeting.gpu == self.gpu.uuid

    def _shares_store(self, peer: PublicKey) -> bool:
        known = self._post.peer(peer)
        return (
            known is not None
            and known.can(Capability.STORE)
            and bool(self._post.store_name)
            and known.greeting.store == self._post.store_name
        )


def _check_size(piece: Piece) -> None:
    if piece.size_bytes > MAX_PIECE_BYTES:
        raise RemoteProtocolError(f"a piece of {piece.size_bytes} octets is over the limit of {MAX_PIECE_BYTES}", Rule.LIMIT)
