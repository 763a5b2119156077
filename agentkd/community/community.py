"""The scripting API: a community of agents, and handles to the networks they hold.

Every call that trains returns a future at once; the work is done by agent processes. What was done is recorded in the
community's folder, so a script that is run again is answered from the records.
"""

import atexit
import os
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from agentkd.architecture import Architecture, Images, Normalization, Setting, as_images
from agentkd.artifacts.history import read_history
from agentkd.artifacts.naming import may_be_digest, must_name_weights
from agentkd.artifacts.recordings import RecordingReport
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.store import DIGEST
from agentkd.checks.script import DataChecks
from agentkd.code.taking import take
from agentkd.community.asked import Asked, counted_classes, counted_heads
from agentkd.community.futures import Lesson
from agentkd.community.handles import AgentHandle
from agentkd.community.heads import SeveralHeads
from agentkd.community.host import Host
from agentkd.community.visit import Visit
from agentkd.community.works import Data, Works
from agentkd.config import launch_settings
from agentkd.coordinator.desk import Order
from agentkd.coordinator.watching import Silent, Watcher
from agentkd.datasets.opening import Opened, open_again, own_names
from agentkd.errors import ChannelClosedError, ConfigError, must_be
from agentkd.exchange.grants import EVERYTHING
from agentkd.names import NO_DIGEST, SHARED, AgentName, Digest, PublicKey
from agentkd.networks import families
from agentkd.recipe import Recipe
from agentkd.task import KINDS, Competence, DataSource, ScoreName, Task
from agentkd.task.judging import shared_measure
from agentkd.visible import visible_line

if TYPE_CHECKING:
    from agentkd.coordinator.guests import Guest


class Community:
    """Agent processes that do what a script asks. Use as a context manager: no process outlives it.

    Without a ``with`` block, as in a notebook, it begins when something is asked of it, and ends by ``close`` or with the
    process.

    Args:
        devices: as on the command line: ``auto``, ``cpu:2``, ``cuda:0,cuda:1``, ``cuda:0x2`` (two agents on one
            GPU); ``none`` if only guests are to do the work.
        record: folder for weights and records; one community at a time may use it.
        seed: root of all random numbers.
        launch: how agents are started and watched, as in an experiment's ``launch``: ``record_lessons=True`` keeps what
            teachers told, and whoever asks the same again, also in a later script, is answered without a teacher.

    Example::

        data = agentkd.open_dataset("generated:seed=7,size=64x64")
        with agentkd.Community(devices="cpu:2", record="runs/exchange") as community:
            big, small = community.agent("big", "pidnet_m"), community.agent("small", "pidnet_s")
            big.train(data, epochs=8).result()
            lesson = small.distill(big, data, [agentkd.SoftTargets(temperature=4)], epochs=8)
            for event in lesson.progress():
                print(event.step, event.loss)
            print(lesson.result().miou, small.assess(data).known_fraction)
    """

    def __init__(
        self,
        devices: str = "auto",
        record: str | Path = "runs/community",
        seed: int = 1,
        watcher: Watcher | None = None,
        **launch: Any,
    ) -> None:
        must_be(seed, int, "seed", "an integer")
        must_be(devices, str, "devices", "text, such as auto, cpu:2 or cuda:0,cuda:1")
        settings = launch_settings(launch | {"devices": devices})
        slots = () if devices == "none" else settings.slots
        folder = RunFolder(record).must_be_for_a_run()
        self._begin(folder, seed, Host(folder, slots, settings, watcher or Silent()))

    @classmethod
    def connect(cls, run: str | Path, seed: int = 1) -> Self:
        """A community that another process on this machine keeps (a script, or ``agentkd community RUN``), to be used likewise.

        Its agents, its records and its weights are shared; what two scripts ask for alike is done once. Networks are called by
        names as ever; to go on with one that another script trained, give its digest: ``community.agent(..., weights=DIGEST)``.

        Args:
            run: the community's folder.
            seed: root of this script's random numbers.

        Raises (on entering):
            ConfigError: nobody keeps a community there now.
        """
        folder = RunFolder(run).must_exist()
        community = cls.__new__(cls)
        community._begin(folder, seed, Visit(folder))
        return community

    def _begin(self, folder: RunFolder, seed: int, works: Works) -> None:
        self.seed, self._folder, self._works = seed, folder, works
        self._opened: dict[tuple[str, Digest], Opened] = {}
        self._data_checks = DataChecks()
        self._names: set[str] = set()
        self._has_begun = self._is_entered = self._is_over = False
        self._handles: dict[str, tuple[AgentHandle, Asked]] = {}

    def __enter__(self) -> Self:
        if self._is_entered or not self._has_begun:
            self.start()
        self._is_entered = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def start(self) -> Self:
        """Begins, as a ``with`` block does; what first asks for something does it too. Ends by ``close``, or with this process.

        Raises:
            ConfigError: it has begun already, or somebody else uses the folder.
            AgentKDError: why it cannot.
        """
        self._works.start()
        self._has_begun = True
        self._at_exit = atexit.register(partial(_close_in, os.getpid(), self._works))  # a kernel ends without leaving a block
        return self

    def close(self) -> None:
        """Ends the agents, as the end of a ``with`` block does. Whoever waits for what is unfinished is told so."""
        self._is_over = True
        if self._has_begun:
            atexit.unregister(self._at_exit)
        self._works.close()

    @property
    def _begun(self) -> Works:
        """Who has tasks done, begun at the first need, where no ``with`` block did it: in a notebook."""
        if not self._has_begun and not self._is_over:
            self.start()
        return self._works

    def agent(
        self,
        name: str,
        family: str,
        *,
        weights: str | Path = "",
        num_classes: int | None = None,
        heads: Mapping[str, int] | None = None,
        images: Images | None = None,
        **settings: Setting,
    ) -> AgentHandle:
        """A handle to a network of this family. Asked for again, alike and by the same name, it is the same handle, as it is now.

        Args:
            name: how it is called here; its seed follows from it.
            family: ``pidnet_s``, ``unet``, ... or ``package.module:builder``.
            weights: digest of weights in the record, or its first characters, or a file of weights: ours, or published ones (see
                ``agentkd weights``).
            num_classes: that of the first data it meets if it is not given.
            heads: for a network with a head for each task: the number of classes of each, by its name, as
                ``{"fire": 5, "roads": 2}``; see ``AgentHandle.head``.
            images: that it takes: how many channels they have, or what these are called, as ``("red", "green", "blue", "nir")``.
                If it is not given, those of the weights, or of the first data it meets, or, with ``num_classes``, RGB. Published
                weights for RGB are made such for other channels, see ``agentkd.networks.weights``.
            settings: the family's settings that differ from its own.

        Raises:
            ConfigError: the name is that of another network or a guest, the architecture is not legal, or the weights are not of
                it.
        """
        must_be(name, str, "the name of a network", "text")
        must_be(weights, (str, Path), "weights", "a file, or a digest")
        family = _name_of(family)
        if heads is not None and num_classes is not None:
            raise ConfigError(f"{name}: heads say how many classes each of them tells apart; leave num_classes out")
        heads = None if heads is None else counted_heads(heads, name)
        num_classes = counted_classes(num_classes, name)
        stored, known, known_heads = NO_DIGEST, num_classes, heads
        wanted = None if images is None else as_images(images, whose=name)
        shown = wanted
        if weights:
            from agentkd.coordinator import importing  # needs torch, which a script that only plans does not

            must_name_weights(weights)
            weights = self.find_artifact(str(weights)) if may_be_digest(weights) else weights
            said = importing.what_they_say(weights, self._folder.store).architecture
            if said and heads is None and num_classes is None:
                known, known_heads = said.num_classes, said.heads or None
            shown = shown or (said.normalization if said else None)
        handle = self._handle(name, family, known, known_heads, settings, shown)
        if weights:
            stored = importing.stored_weights(weights, handle.architecture, self._folder.store)
        asked = Asked(family, num_classes, settings, stored, heads, wanted)
        if name in self._handles:
            there, first = self._handles[name]
            asked.must_be_as(first, name, there=there.known_architecture)
            return there
        heads_of = handle.heads.values() if isinstance(handle, SeveralHeads) else ()
        self._take_names(name, *(one.name for one in heads_of))
        if stored:
            handle.begin_with(stored)
        self._handles[name] = (handle, asked)
        return handle

    def _handle(
        self,
        name: str,
        family: str,
        num_classes: int | None,
        heads: Mapping[str, int] | None,
        settings: dict[str, Setting],
        images: Normalization | None,
    ) -> AgentHandle:
        if heads is None:
            return AgentHandle(self, name, family, num_classes=num_classes, settings=settings, images=images)
        handle = SeveralHeads(self, name, family, heads=heads, settings=settings, images=images)
        if families.is_own(family):
            from agentkd.networks.build import count_architecture  # needs torch, which a script that only plans does not

            count_architecture(handle.architecture)
        return handle

    def who_knows(
        self, data: Data, split: str = "validation", *, score: ScoreName = "energy", tap: str = ""
    ) -> list[tuple[AgentHandle, Competence]]:
        """Every network, or head, of this community that has learned, with its competence on a split, the most competent first.

        They are ordered by the known fraction times the network's own validation mIoU (its accuracy, if all are classifiers),
        which needs no labels of the data.

        Args:
            data: what is looked at.
            split: of it.
            score: how it is told what is known, as of ``AgentHandle.assess``.
            tap: see there.
        """
        able = [one for handle, _ in self._handles.values() for one in handle.views()]
        found = [(handle, handle.assess(data, split, score=score, tap=tap)) for handle in able]
        measure = shared_measure([handle.measure for handle in able])
        return sorted(found, key=lambda pair: -(pair[1].known_fraction or 0.0) * pair[0].score_by(measure))

    def shared_data(self, digest: str) -> Opened:
        """Data that somebody shared, by the digest of their file, which is in the record, or its first characters.

        Raises:
            ConfigError: nothing begins so, or several things do, which it lists.
            DatasetError: they are not there, or damaged.
        """
        must_be(digest, str, "the digest of shared data", "text")
        return self._open(SHARED + self.find_artifact(digest))

    def find_artifact(self, beginning: str) -> Digest:
        """The digest of something in the record, such as weights, by its first characters or those of the task that made it.

        Args:
            beginning: four characters or more of the 64.

        Raises:
            ConfigError: nothing begins so, or several things do, which it lists.
        """
        must_be(beginning, str, "a digest", "text")
        store, is_whole = self._folder.store, bool(DIGEST.fullmatch(beginning))
        if is_whole and Digest(beginning) in store:
            return Digest(beginning)
        history = read_history(self._folder)
        if is_whole and beginning not in history.by_task:
            return Digest(beginning)  # who reads it says that it is not there
        return history.find_artifact(beginning, store)

    def artifact(self, digest: str) -> bytes:
        """Stored bytes by their digest or its first characters.

        Raises:
            ArtifactError: they are not there, or damaged.
        """
        must_be(digest, str, "the digest of an artifact", "text")
        return self._folder.store.get(Digest(digest) if DIGEST.fullmatch(digest) else self.find_artifact(digest))

    def must_be_of(self, architecture: Architecture, weights: Digest) -> None:
        """Nothing, if stored weights are of an architecture.

        Raises:
            ConfigError: they are not, and in what.
            ArtifactError: they are not there, or damaged.
        """
        from agentkd.coordinator import importing  # needs torch, which a script that only plans does not

        importing.must_be_of(architecture, self._folder.store.get(weights), which=f"weights {weights[:12]}")

    def __repr__(self) -> str:
        networks = ", ".join(self._handles) or "none yet"
        state = "open" if self._works.is_open else "closed"
        return visible_line(f"<{type(self).__name__} in {self._folder.place}: {state}, networks: {networks}>")

    @property
    def recordings(self) -> RecordingReport:
        """What recorded lessons take, and what they saved."""
        return self._begun.recordings()

    def guest(self, name: str, public_key: str, *, may: tuple[str, ...] = EVERYTHING) -> "Guest":
        """Admits an agent that somebody else starts, perhaps in another language; it finds the community by ``invitation``.

        A guest that learns (``agentkd agent --join``) takes tasks like the community's own agents. One that says what weights it
        teaches can be a teacher, be assessed and be asked for soft targets. It may leave and come back.

        Args:
            name: how it is called here.
            public_key: as ``agentkd keys new`` prints it.
            may: kinds of knowledge that it may fetch.

        Raises:
            ConfigError: the name is taken, or this script is only connected to the community.
        """
        from agentkd.coordinator.guests import Guest  # needs torch, which a script that only plans does not

        must_be(name, str, "the name of a guest", "text")
        must_be(public_key, str, "public_key", "the 40 characters that agentkd keys new prints")
        must_be(may, (tuple, list), "may", "kinds of knowledge")
        crew = self._begun.agents
        self._take_names(name)
        return Guest(crew, AgentName(name), PublicKey(public_key), may)

    @property
    def invitation(self) -> str:
        """What a guest needs to know to come, as options of ``agentkd agent``: to paste into a shell, or for ``shlex.split``."""
        contact = self._begun.agents.contact
        return shlex.join([*(f"--join={one}" for one in contact.endpoints), f"--coordinator-key={contact.coordinator_key}"])

    def source(self, data: Data) -> DataSource:
        """A dataset by specification and content."""
        opened = self._open(data)
        return DataSource(spec=opened.spec, content_digest=opened.digest, code=opened.code)

    def must_be_learnable(self, data: Data, recipe: Recipe, *, needs_labels: bool, name: str) -> None:
        """Nothing, if a network can learn from the data in this way. What may be meant is logged, once for each data.

        Raises:
            ConfigError: it cannot, see ``agentkd.checks.script``.
            DatasetError: the data are not as described, or two splits have an image in common.
        """
        must_be(recipe, Recipe, "the recipe", "agentkd.Recipe")
        self._data_checks.must_be_learnable(self._open(data), recipe, needs_labels=needs_labels, name=name)

    def classes(self, data: Data) -> tuple[str, ...]:
        """The classes of a dataset."""
        return self._open(data).classes

    def images(self, data: Data) -> Normalization:
        """The channels of a dataset's images, and how a network sees them that does not say otherwise."""
        return self._open(data).normalization

    def num_parts(self, data: Data) -> int:
        """How many datasets are joined in this one; 1 of a single one."""
        return self._open(data).num_parts

    def submit(self, *tasks: tuple[Task, str]) -> tuple[Lesson, ...]:
        """Has tasks (with labels) done; each future holds its result, or the error that ended it."""
        if not self._begun.is_open:
            raise ChannelClosedError("the community is closed; use it inside its with-block, or make another one of its folder")
        strange = [task for task, _ in tasks if type(task) not in KINDS.values()]
        if strange:
            raise ConfigError(f"{strange[0]!r} is no task; there are {', '.join(kind.__name__ for kind in KINDS.values())}")
        lessons = tuple(Lesson(label) for _, label in tasks)
        self._works.submit([Order(task, label, lesson) for (task, label), lesson in zip(tasks, lessons, strict=True)])
        return lessons

    @property
    def num_learners(self) -> int | None:
        """How many agents can learn at once; ``None`` if that is up to guests."""
        return (self._begun if isinstance(self._works, Visit) else self._works).num_learners

    def _open(self, data: Data) -> Opened:
        """A dataset, opened once; one of a user's own that is given by name is opened again where its code has changed."""
        if not isinstance(data, str | Opened):
            raise ConfigError(f"the data are {data!r}; expected a specification, or what agentkd.open_dataset returned")
        if isinstance(data, Opened):
            return self._opened.setdefault((data.spec, data.code), data)
        names = own_names(data)
        code = take(*names) if names else NO_DIGEST
        if (data, code) not in self._opened:
            self._opened[data, code] = open_again(data, code)
        return self._opened[data, code]

    def _take_names(self, *names: str) -> None:
        """Takes the names of a network and of its heads, or none of them."""
        taken = next((name for name in names if name in self._names), None)
        if taken is not None:
            where, _, head = taken.rpartition(".")
            several = where in self._handles and head in self._handles[where][0].architecture.heads
            whose = f": it is that of head {head} of {where}" if several else ""
            hint = "" if taken == names[0] else f", and {names[0]} would have a head of that name; give one of them another"
            raise ConfigError(f"the name {taken!r} is taken in this community{whose}{hint}")
        self._names.update(names)


def _name_of(family: object) -> str:
    """The name that is given.

    Raises:
        ConfigError: what is given is the builder itself.
    """
    if isinstance(family, str):
        return family
    name = f"{getattr(family, '__module__', '')}:{getattr(family, '__qualname__', '')}"
    if name.startswith("__main__:"):
        take(name)  # says what to do
    raise ConfigError(f'{family!r} is given itself; agents load it by its name, so give that: "{name}"')


def _close_in(process: int, works: Works) -> None:
    """At the end of the process that began it; a copy of that process, made by a fork, has nothing to end."""
    if os.getpid() == process:
        works.close()
