"""The teacher's side of an exchange: one adopted network that answers requests for what it knows."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from agentkd import canonical
from agentkd.agents.assessing import known_energies
from agentkd.agents.feeding import open_source, view_images
from agentkd.agents.readying import USUAL, Readied
from agentkd.architecture import Architecture
from agentkd.errors import ContractError, DatasetError, RemoteProtocolError, Rule
from agentkd.exchange.sources import Parcel
from agentkd.knowledge import codecs, payloads, tensors
from agentkd.knowledge.contracts import TeachingContract, agree
from agentkd.knowledge.energy import energy, known_fraction
from agentkd.knowledge.images import decode_images, normalized
from agentkd.knowledge.tensors import TensorLayout, Tensors
from agentkd.knowledge.weights import load_as_learned, read_metadata
from agentkd.messages.bodies import AssessReply, AssessRequest, KnowledgeKind, KnowledgeRequest, Way
from agentkd.messages.wire import Buffer
from agentkd.names import NO_DIGEST, Digest
from agentkd.networks.blocks import SegmentationNetwork
from agentkd.networks.build import build
from agentkd.networks.heads import using
from agentkd.objectives import LOGITS
from agentkd.recipe import Arithmetic
from agentkd.task import DataSource
from agentkd.training.ahead import carry
from agentkd.training.forms import in_precision
from agentkd.training.taps import tapped
from agentkd.unrepeatable import Repeatably

CACHED_BYTES = 256 * 1024**2
MAX_PIXELS = 2**27  # of a request, before anything is worked on: 32 views of 2048 x 2048
Allocate = Callable[[int, tuple[Way, ...]], Parcel]


@dataclass(frozen=True)
class Answer:
    """What a teacher hands over, the seconds that it cost, and whether it had been given before."""

    parcel: Parcel
    seconds: float
    is_cached: bool


class Teacher:
    """A network in evaluation mode. Students that ask for the same views are answered by one forward pass.

    One with several heads answers each student with the head that it asks for, or whose classes are the student's.

    Args:
        data: the dataset whose views students may name; without it they send their images.
        stored: the weights as they are stored.
        allocate: makes memory for what is handed over by certain ways, on this device if by such; plain memory if not given.
        loaders: threads that make the views of a request side by side.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Digest,
        data: DataSource | None,
        *,
        stored: Buffer,
        device: torch.device,
        allocate: Allocate = lambda size_bytes, ways: Parcel(size_bytes),
        loaders: int = 0,
    ) -> None:
        self.weights, self.num_forwards = weights, 0
        self.architecture, self._device, self._allocate = architecture, device, allocate
        self._source, self._loaders = data, loaders
        self._datasets = {data.content_digest: open_source(data)} if data else {}
        self.weights_parcel = allocate(len(stored), ())
        self.weights_parcel.view[:] = stored
        self._network = self._build()
        self._readied = Readied(self._network, self._build)
        self._said = read_metadata(self.weights_parcel.view)
        self.classes = self._said.classes_of(architecture)
        self._answers: OrderedDict[Digest, tuple[Parcel, float]] = OrderedDict()
        self._cached_bytes = 0
        self._known_below: float | None = None

    def teach_about(self, data: DataSource) -> None:
        """Students may name views of these data too."""
        self._datasets[data.content_digest] = open_source(data)

    def close(self) -> None:
        """Lets go of the memory of what was handed over."""
        self.weights_parcel.close()
        while self._answers:
            self._answers.popitem()[1][0].close()

    def answer(self, request: KnowledgeRequest, images: Buffer | None = None) -> "Answer":
        """What was asked for of the requested views, or of the images sent.

        Raises:
            ContractError: the request means something else than this teacher can give, or the images are not in [0, 1].
            DatasetError: views are named, but this teacher has no dataset.
            RemoteProtocolError: the images are no tensors that may be, or there are too many pixels in all views.
        """
        spoken = self._spoken_with(request)
        self._agree(request, spoken, has_images=images is not None)
        pixels = canonical.digest_bytes(images) if images is not None else NO_DIGEST
        asked = canonical.digest([request.model_dump(exclude={"ways", "classes", "head"}), spoken.head, pixels])
        if asked in self._answers:
            self._answers.move_to_end(asked)
            parcel, seconds = self._answers[asked]
            return Answer(parcel, seconds, is_cached=True)
        started = time.monotonic()
        inputs = self._look_at(images) if images is not None else self._view_images(request)
        taught = self._teach(request, inputs, spoken.head)
        layout = tensors.plan(taught)
        parcel = self._allocate(layout.size_bytes, request.ways)
        self._write(taught, layout, parcel)
        self._answers[asked] = (parcel, time.monotonic() - started)
        self._cached_bytes += parcel.held_bytes
        while self._cached_bytes > CACHED_BYTES and len(self._answers) > 1:
            _, (dropped, _) = self._answers.popitem(last=False)
            self._cached_bytes -= dropped.held_bytes
            dropped.close()
        return Answer(parcel, self._answers[asked][1], is_cached=False)

    def assess(self, request: AssessRequest, images: Buffer) -> AssessReply:
        """What this network makes of the images.

        Raises:
            ContractError: another number of classes, or the images are not in [0, 1].
            RemoteProtocolError: the images are no tensors that may be.
        """
        if request.num_classes != self.architecture.num_classes:
            raise ContractError("num_classes", self.architecture.num_classes, request.num_classes)
        inputs = self._look_at(images)
        logits = self._logits(inputs)
        threshold = self._threshold()
        counts = torch.bincount(logits.argmax(dim=1).flatten(), minlength=request.num_classes).double()
        return AssessReply(
            weights=self.weights,
            num_images=len(inputs),
            known_fraction=None if threshold is None else known_fraction(energy(logits), threshold),
            predicted=tuple((counts / counts.sum()).tolist()),
        )

    def _spoken_with(self, request: KnowledgeRequest) -> Architecture:
        """The network with the head that answers.

        Raises:
            ContractError: it has no such head.
        """
        own = self.architecture
        if request.head and request.head not in own.heads:
            raise ContractError("head", ", ".join(sorted(own.heads)) or "none", request.head)
        fitting = [head for head in sorted(own.heads) if request.classes and self._said.heads.get(head) == request.classes]
        is_own = own.head in fitting or not fitting
        return own.under(request.head or (own.head if is_own else fitting[0]))

    def _agree(self, request: KnowledgeRequest, spoken: Architecture, *, has_images: bool) -> None:
        if not has_images and not self._datasets:
            raise DatasetError("this teacher", "has no dataset, so views cannot be named", "the images themselves, as a buffer")
        is_known = has_images or request.dataset in self._datasets
        dataset = request.dataset if is_known else ", ".join(self._datasets)
        agree(
            TeachingContract(
                weights=self.weights,
                num_classes=spoken.num_classes,
                classes=self._said.classes_of(spoken),
                dataset=dataset,
            ),
            TeachingContract(
                weights=Digest(request.weights),
                num_classes=request.num_classes,
                classes=request.classes,
                dataset=request.dataset,
            ),
        )

    def _view_images(self, request: KnowledgeRequest) -> Tensor:
        dataset, settings = self._datasets[request.dataset], request.view_settings
        if not request.views:
            raise ContractError("views", "at least one, or images", "none")
        known = set().union(*dataset.splits.values())
        if strange := [index for index, _ in request.views if index not in known]:
            raise ContractError("views", f"{len(known)} samples, in splits {', '.join(dataset.splits)}", f"sample {strange[0]}")
        is_whole = settings.crop_height == 0
        height, width = (
            dataset.sample(request.views[0][0]).label.shape if is_whole else (settings.crop_height, settings.crop_width)
        )
        if (num_pixels := len(request.views) * height * width) > MAX_PIXELS:
            raise RemoteProtocolError(
                f"{len(request.views)} views of {height}x{width} are {num_pixels:,} pixels; "
                f"one request is for {MAX_PIXELS:,} at most",
                Rule.LIMIT,
            )
        return view_images(dataset, request.views, settings, self.architecture.normalization, loaders=self._loaders)

    def _look_at(self, images: Buffer) -> Tensor:
        """Images that somebody sent, as this network wants them."""
        return normalized(decode_images(images), self.architecture.normalization)

    def _build(self) -> SegmentationNetwork:
        network = build(self.architecture).to(self._device).eval()
        load_as_learned(network, self.weights_parcel.view, self.architecture)
        return network

    def _teach(self, request: KnowledgeRequest, images: Tensor, head: str) -> dict[str, Tensor]:
        """The teacher's half of every objective: the payloads asked for, logits if none is named."""
        wanted = request.payloads or (LOGITS,)
        if request.kind is KnowledgeKind.SOFT_TARGETS and wanted != (LOGITS,):
            raise ContractError(
                "payloads", LOGITS.name, ", ".join(payload.name for payload in wanted), hint="ask for feature_maps"
            )
        taps = tuple(dict.fromkeys(payload.tap for payload in wanted if payload.tap))
        outputs = self._forward(images, taps, head=head, arithmetic=request.arithmetic)
        codecs.check(request.codec)
        taught: dict[str, Tensor] = {}
        for payload in wanted:
            taught |= codecs.write(payload.name, payloads.reduce(payload, outputs), request.codec, max_kl=request.max_kl)
        return taught

    def _write(self, taught: Tensors, layout: TensorLayout, parcel: Parcel) -> None:
        """Puts an answer where it is handed over from. On a GPU it is waited for, as it is where it is copied from one."""
        if parcel.array is None:
            tensors.write(taught, layout, parcel.view)
            return
        tensors.write(taught, layout, torch.as_tensor(parcel.array, device=self._device))
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def _logits(self, images: Tensor) -> Tensor:
        return payloads.dense(self._forward(images, head=self.architecture.head)["logits"])

    @torch.no_grad()
    def _forward(
        self, images: Tensor, taps: tuple[str, ...] = (), *, head: str, arithmetic: Arithmetic = USUAL
    ) -> dict[str, Tensor]:
        self.num_forwards += 1
        there = carry(images, self._device)
        network = self._readied.find(arithmetic, head, there, taps)
        held = Repeatably(is_allowed=not arithmetic.repeatable)
        with held, using(network, head), in_precision(self._device, arithmetic.precision):
            return tapped(network, there, taps)

    def _threshold(self) -> float | None:
        """The energy under which a pixel is known, from this teacher's own validation split; ``None`` without one."""
        if self._known_below is None and self._source is not None:
            self._known_below = known_energies(self._network, self._source, self.architecture, self._device)[1]
        return self._known_below
