"""Two real agents: the same bits as in one process, and knowledge that really crosses ZeroMQ."""

import json
import os
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from experiments import EXPERIMENT, SPEC, agentkd, environment, weights_of, write_experiment
from fork_servers import Keeper

from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.lessons import DirectLesson
from agentkd.agents.remote_lesson import RemoteLesson
from agentkd.agents.teaching import Teacher
from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.run_folder import RunFolder
from agentkd.code import loading
from agentkd.datasets.opening import open_dataset
from agentkd.exchange.grants import EVERYTHING
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import Delivery, Manners, Post
from agentkd.knowledge import tensors
from agentkd.knowledge.weights import encode_weights
from agentkd.launch.devices import Slot
from agentkd.launch.launcher import Contact, end_all
from agentkd.launch.local import Fork, LocalLauncher
from agentkd.messages.bodies import (
    AdmittedPeer,
    Body,
    CancelRequest,
    ErrorReply,
    HelloRequest,
    KnowledgeKind,
    KnowledgeReply,
    KnowledgeRequest,
    PeerAddress,
    PeersEvent,
    PingReply,
    PingRequest,
    StatusReply,
    StatusRequest,
    TaskProgressEvent,
    TaskReply,
    TaskRequest,
    TaughtBy,
    TeachReply,
    TeachRequest,
    WelcomeReply,
)
from agentkd.messages.wire import Message, encode
from agentkd.networks.families import resolve
from agentkd.objectives import Attention, Boundary, ChannelWise, Dist, Dkd, Features, Ifvd, Pairwise, SoftTargets
from agentkd.recipe import Arithmetic, Distillation, Recipe, ViewSettings
from agentkd.task import DataSource, Distill, Status, Task, TaskResult, TeacherReference, Train

pytestmark = pytest.mark.process
CPU, SLOT = torch.device("cpu"), Slot("cpu", 1)
RECIPE = Recipe(epochs=2, batch_size=4, learning_rate=0.05, views=ViewSettings(crop_height=32, crop_width=32))
TEACHER_NET = resolve("tiny_networks:other", 5, {"width": 16})
STUDENT_NET = resolve("tiny_networks:tiny", 5, {"width": 8})


@dataclass
class Hand:
    """A coordinator's hands without its head: starts agents and talks to them."""

    folder: RunFolder
    post: Post
    inbox: "queue.Queue[Delivery]"
    launcher: LocalLauncher
    agents: dict[str, Fork]
    keys: dict[str, str]
    addresses: dict[str, PeerAddress]
    transport: str = "auto"
    slot: Slot = SLOT

    def start(self, *names: str) -> None:
        for name in names:
            pair = new_key_pair()
            self.post.allow([pair.public])
            self.keys[name] = pair.public
            contact = Contact(
                self.post.endpoints, self.post.keys.public, self.transport, checkpoint_every_s=30, image_cache_gib=1
            )
            self.agents[name] = self.launcher.start(name, self.slot, contact.arguments(self.folder, name, self.slot), pair)
        for _ in names:
            delivery = self.wait_for(HelloRequest)
            name = next(n for n, key in self.keys.items() if key == delivery.sender)
            body = delivery.message.body
            self.addresses[name] = PeerAddress(agent=name, endpoints=body.endpoints, public_key=delivery.sender)
        self.admit(*self.keys.values())

    def admit(self, *keys: str) -> None:
        for name in self.addresses:
            self.say(name, PeersEvent(peers=tuple(AdmittedPeer(agent="", public_key=key, may=EVERYTHING) for key in keys)))

    def say(self, name: str, body: Body, parent_id: int = 0) -> int:
        return self.post.send(self.keys[name], body, parent_id=parent_id)

    def wait_for(self, *kinds: type[Body]) -> Delivery:
        deadline = time.monotonic() + 90
        while True:
            delivery = self.inbox.get(timeout=max(0.1, deadline - time.monotonic()))
            if isinstance(delivery.message.body, kinds):
                return delivery


@pytest.fixture
def hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hand]:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    with hand_in(tmp_path / "run") as made:
        yield made


@contextmanager
def hand_in(place: Path) -> Iterator[Hand]:
    folder, keys, inbox = RunFolder(place), new_key_pair(), queue.Queue()
    manners = Manners(coordinator_key=keys.public, store=folder.store.place)
    with Post(keys, inbox.put, bind=("tcp://127.0.0.1:*", "ipc://*"), manners=manners) as post:
        folder.store.put(loading.provided(STUDENT_NET.code).encode())  # that of both networks
        launcher = LocalLauncher(folder)
        made = Hand(folder, post, inbox, launcher, {}, {}, {})
        try:
            yield made
        finally:
            end_all(list(made.agents.values()))
            launcher.close()


def source() -> DataSource:
    return DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)


def trained_teacher(folder: RunFolder) -> TeacherReference:
    task = Train(architecture=TEACHER_NET, data=source(), recipe=RECIPE, seed=1, view_seed=2)
    return TeacherReference(architecture=TEACHER_NET, weights=execute(task, Surroundings(folder.store, CPU)).weights)


def lesson_task(teacher: TeacherReference, **fields: object) -> Task:
    distillation = Distillation(**fields)
    return Distill(
        architecture=STUDENT_NET,
        data=source(),
        recipe=RECIPE,
        seed=3,
        view_seed=4,
        teachers=(teacher,),
        distillation=distillation,
    )


def in_one_call(task: Task, folder: RunFolder) -> TaskResult:
    """The same distillation in one process and one function call."""

    def lesson(task: Task, feed: DatasetFeed, steps: int) -> DirectLesson:
        return DirectLesson(task, feed, store=folder.store, device=CPU)

    return execute(task, Surroundings(folder.store, CPU, lesson=lesson))


@pytest.mark.parametrize(
    "fields",
    [
        {"alpha": 0.3, "objectives": (SoftTargets(temperature=4.0),)},
        {"objectives": (SoftTargets(scale_by_temperature_squared=False),), "hard_loss": "cross_entropy", "codec": "float32"},
        {"objectives": (SoftTargets(resolution="native"),), "start": "inherit"},
        {"objectives": (SoftTargets(), Features({"body.2": "body.2"}), Pairwise({"body": "body"}), Attention({"body": "body"}))},
        {"codec": "int8"},
        {"codec": "auto", "max_kl": 1e-4, "objectives": (SoftTargets(), Attention({"body": "body"}))},
        {"objectives": (Dist(), ChannelWise(taps={"body": "body"}, weight=50), Dkd(), Boundary(), Ifvd({"body": "body"}))},
        {"arithmetic": Arithmetic(precision="bfloat16", channels_last=True, folded=True), "objectives": (SoftTargets(),)},
    ],
    ids=["hinton", "paper-exact", "native-inherit", "features", "int8", "auto", "relations", "folded in bfloat16"],
)
def test_a_distillation_through_two_processes_has_the_bits_of_one_function_call(hand: Hand, fields: dict) -> None:
    teacher = trained_teacher(hand.folder)
    task = lesson_task(teacher, **fields)
    torch.set_num_threads(1)
    expected = in_one_call(task, hand.folder)
    hand.start("teacher", "student")
    hand.say("teacher", TeachRequest(architecture=teacher.architecture, weights=teacher.weights, data=task.data))
    hand.wait_for(TeachReply)
    taught = TaughtBy(weights=teacher.weights, peer=hand.addresses["teacher"])
    hand.say("student", TaskRequest(task=task, attempt=1, teachers=(taught,)))
    result = hand.wait_for(TaskReply).message.body.result
    assert result.status is Status.COMPLETED
    assert result.weights == expected.weights
    assert result.miou == expected.miou


def test_a_permuted_class_order_with_its_map_is_bit_identical(tmp_path: Path) -> None:
    """The same teacher with its classes numbered otherwise, and the map back."""
    folder, order = RunFolder(tmp_path / "run"), [3, 0, 4, 1, 2]
    teacher = trained_teacher(folder)
    state = tensors.decode(folder.store.get(teacher.weights))
    back = sorted(range(5), key=order.__getitem__)
    permuted = {name: value[order] if ".head." in name else value for name, value in state.items()}
    other = TeacherReference(
        architecture=teacher.architecture,
        weights=folder.store.put(encode_weights(teacher.architecture, permuted)),
        class_order=tuple(back),
    )
    plain, mapped = (in_one_call(lesson_task(reference), folder) for reference in (teacher, other))
    wrong = in_one_call(lesson_task(other.replace(class_order=())), folder)
    assert plain.weights == mapped.weights != wrong.weights


@pytest.mark.parametrize(
    ("transport", "way", "scheme"),
    [
        ("auto", "inline", "ipc"),
        ("shared", "shared", "ipc"),
        ("store", "store", "ipc"),
        ("ipc", "inline", "ipc"),
        ("tcp", "inline", "tcp"),
    ],
)
def test_every_way_gives_the_same_bits(hand: Hand, transport: str, way: str, scheme: str) -> None:
    teacher = trained_teacher(hand.folder)
    task = lesson_task(teacher, objectives=(SoftTargets(temperature=3.0),))
    torch.set_num_threads(1)
    expected = in_one_call(task, hand.folder)
    hand.transport = transport
    hand.start("teacher", "student")
    assert hand.addresses["teacher"].endpoints[0].startswith(scheme)
    hand.say("teacher", TeachRequest(architecture=teacher.architecture, weights=teacher.weights, data=task.data))
    hand.wait_for(TeachReply)
    taught = TaughtBy(weights=teacher.weights, peer=hand.addresses["teacher"])
    hand.say("student", TaskRequest(task=task, attempt=1, teachers=(taught,)))
    result = hand.wait_for(TaskReply).message.body.result
    assert result.weights == expected.weights
    lines = (hand.folder.logs / "teacher.audit.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["way"] for line in lines} == {way} and len(lines) == result.exchange.requests
    hand.say("teacher", StatusRequest())
    assert hand.wait_for(StatusReply).message.body.counters["leases"] <= 1


@pytest.mark.gpu
@pytest.mark.timeout(180)
def test_on_one_gpu_what_a_teacher_says_stays_in_its_memory_and_has_the_bits_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    views = ViewSettings(crop_height=256, crop_width=256)
    recipe = RECIPE.replace(views=views)
    weights, ways = [], []
    for transport in ("tcp", "auto"):
        with hand_in(tmp_path / transport) as hand:
            teacher = trained_teacher(hand.folder)
            task = lesson_task(teacher, objectives=(SoftTargets(), Attention({"body": "body"}))).replace(recipe=recipe)
            hand.transport, hand.slot = transport, Slot("cuda:0", 1)
            hand.start("teacher", "student")
            hand.say("teacher", TeachRequest(architecture=teacher.architecture, weights=teacher.weights, data=task.data))
            hand.wait_for(TeachReply)
            taught = TaughtBy(weights=teacher.weights, peer=hand.addresses["teacher"])
            hand.say("student", TaskRequest(task=task, attempt=1, teachers=(taught,)))
            result = hand.wait_for(TaskReply, ErrorReply).message.body
            assert isinstance(result, TaskReply), result
            weights.append(result.result.weights)
            lines = (hand.folder.logs / "teacher.audit.jsonl").read_text(encoding="utf-8").splitlines()
            ways.append([json.loads(line)["way"] for line in lines])
            hand.say("teacher", StatusRequest())
            assert hand.wait_for(StatusReply).message.body.counters["leases"] <= 1
    assert weights[0] == weights[1]
    assert "device" not in ways[0]
    assert "device" in ways[1], "all but those that were asked before the teacher had greeted"


def test_an_experiment_over_shared_memory_has_the_results_of_one_over_messages(tmp_path: Path, undisturbed: Path) -> None:
    """Its agents teach with one network after another, and so use their shared memory again."""
    experiment = write_experiment(tmp_path, launch=EXPERIMENT["launch"] | {"transport": "shared"})
    done = agentkd("run", experiment, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert weights_of(tmp_path / "run") == weights_of(undisturbed)


def test_the_memory_of_one_process_gives_the_same_bits(tmp_path: Path) -> None:
    """Teacher and student as posts of one process, each with its own thread."""
    folder = RunFolder(tmp_path / "run")
    teacher = trained_teacher(folder)
    task = lesson_task(teacher, objectives=(SoftTargets(temperature=3.0),))
    torch.set_num_threads(1)
    expected = in_one_call(task, folder)
    teaching = Teacher(teacher.architecture, teacher.weights, task.data, stored=folder.store.get(teacher.weights), device=CPU)
    inbox: queue.Queue[Delivery] = queue.Queue()

    def teach(delivery: Delivery) -> None:
        request = delivery.message.body
        if isinstance(request, KnowledgeRequest):
            answer = teaching.answer(request)
            piece, buffers = giving.pack(delivery.sender, answer.parcel, request.ways)
            reply = KnowledgeReply(kind=request.kind, weights=request.weights, piece=piece, teacher_s=answer.seconds)
            there.send(delivery.sender, reply, parent_id=delivery.message.msg_id, buffers=buffers)

    with Post(new_key_pair(), teach, bind="memory://*") as there, Post(new_key_pair(), inbox.put, bind="memory://*") as here:
        giving, taking = Carrier(there), Carrier(here)
        there.allow([here.keys.public])
        peer = PeerAddress(agent="teacher", endpoints=there.endpoints, public_key=there.keys.public)

        def lesson(task: Task, feed: DatasetFeed, steps: int) -> RemoteLesson:
            taught = (TaughtBy(weights=teacher.weights, peer=peer),)
            return RemoteLesson(
                task,
                feed,
                taught,
                post=here,
                carrier=taking,
                inbox=inbox,
                check=lambda: None,
                total_steps=steps,
                obtain=folder.store.get,
            )

        result = execute(task, Surroundings(folder.store, CPU, lesson=lesson))
    assert result.weights == expected.weights and result.exchange.requests > 0


def test_every_agent_is_a_process_and_soft_targets_go_from_agent_to_agent(hand: Hand, keeper: Keeper) -> None:
    teacher = trained_teacher(hand.folder)
    task = lesson_task(teacher)
    hand.start("teacher", "student")
    children = {child.pid for child in psutil.Process().children(recursive=True)} - keeper.pids
    agents = [psutil.Process(agent.pid) for agent in hand.agents.values()]
    assert len(agents) == 2 and {agent.pid for agent in agents} | {agent.ppid() for agent in agents} == children
    assert os.getpid() not in children
    hand.say("teacher", TeachRequest(architecture=teacher.architecture, weights=teacher.weights, data=task.data))
    hand.wait_for(TeachReply)
    before = hand.post.counters.bytes_received
    taught = TaughtBy(weights=teacher.weights, peer=hand.addresses["teacher"])
    hand.say("student", TaskRequest(task=task, attempt=1, teachers=(taught,)))
    exchange = hand.wait_for(TaskReply).message.body.result.exchange
    steps = RECIPE.epochs * 4
    one_payload = 4 * 5 * 16 * 16 * 2  # N, K, h, w at the teacher's native stride 2, float16
    assert exchange.requests == steps
    assert steps * one_payload < exchange.bytes_received < steps * (one_payload + 500)
    assert hand.post.counters.bytes_received - before < exchange.bytes_received / 2


def test_weights_are_asked_of_their_teacher_and_a_stranger_gets_nothing(hand: Hand) -> None:
    teacher = trained_teacher(hand.folder)
    hand.start("teacher")
    request = KnowledgeRequest(kind=KnowledgeKind.WEIGHTS, weights=teacher.weights)
    address = hand.addresses["teacher"]
    answers: dict[str, queue.Queue[Delivery]] = {"peer": queue.Queue(), "stranger": queue.Queue()}
    peer, stranger = new_key_pair(), new_key_pair()
    hand.admit(peer.public)
    with Post(peer, answers["peer"].put) as known, Post(stranger, answers["stranger"].put) as unknown:
        for post in (unknown, known):
            post.connect(address)
            post.send(address.public_key, request)
        assert isinstance(answers["peer"].get(timeout=30).message.body, WelcomeReply)
        reply = answers["peer"].get(timeout=30).message
        assert isinstance(reply.body, KnowledgeReply)
        assert bytes(reply.buffers[0]) == hand.folder.store.get(teacher.weights)
        assert answers["stranger"].empty()


def test_only_the_coordinator_may_give_tasks(hand: Hand) -> None:
    hand.start("agent")
    peer, inbox = new_key_pair(), queue.Queue()
    hand.admit(peer.public)
    task = Train(architecture=STUDENT_NET, data=source(), recipe=RECIPE)
    address = hand.addresses["agent"]
    with Post(peer, inbox.put) as post:
        post.connect(address)
        post.send(address.public_key, KnowledgeRequest(kind=KnowledgeKind.SOFT_TARGETS, weights="ab" * 32))
        assert isinstance(inbox.get(timeout=30).message.body, WelcomeReply)
        answer = inbox.get(timeout=30).message.body
        assert isinstance(answer, ErrorReply) and answer.code == "artifact"
        post.send_frames(address.public_key, encode(Message(TaskRequest(task=task, attempt=1), 99, 0, post.session)))
        post.send(address.public_key, PingRequest(text="after that"))
        assert isinstance(inbox.get(timeout=30).message.body, PingReply)
    hand.say("agent", StatusRequest())
    assert hand.wait_for(StatusReply).message.body.refused == {"role": 1}
    said = [hand.inbox.get_nowait().message.body for _ in range(hand.inbox.qsize())]
    assert not [body for body in said if isinstance(body, TaskReply | TaskProgressEvent)]


def test_a_contract_that_does_not_match_is_refused_by_field(hand: Hand) -> None:
    teacher = trained_teacher(hand.folder)
    seven = resolve("tiny_networks:tiny", 7, {"width": 8})
    with pytest.raises(ValueError, match="class_order must say which is which"):
        lesson_task(teacher).replace(architecture=seven)  # what is known beforehand need not travel
    task = lesson_task(teacher.replace(architecture=None)).replace(architecture=seven)
    hand.start("teacher", "student")
    hand.say("teacher", TeachRequest(architecture=teacher.architecture, weights=teacher.weights, data=task.data))
    hand.wait_for(TeachReply)
    taught = TaughtBy(weights=teacher.weights, peer=hand.addresses["teacher"])
    hand.say("student", TaskRequest(task=task, attempt=1, teachers=(taught,)))
    error = hand.wait_for(ErrorReply, TaskReply).message.body
    assert isinstance(error, ErrorReply)
    assert "'num_classes' differs: teacher has 5, student expects 7" in error.text


def test_a_cancelled_task_ends_at_its_next_step_and_the_agent_takes_another(hand: Hand) -> None:
    hand.start("agent")
    long = Train(architecture=STUDENT_NET, data=source(), recipe=RECIPE.model_copy(update={"epochs": 100_000}))
    number = hand.say("agent", TaskRequest(task=long, attempt=1))
    hand.wait_for(TaskProgressEvent)
    hand.say("agent", CancelRequest(task=long.key, attempt=1), parent_id=number)
    error = hand.wait_for(ErrorReply).message.body
    assert (error.code, error.task, error.attempt) == ("cancelled", long.key, 1)
    hand.say("agent", TaskRequest(task=long.replace(recipe=RECIPE), attempt=1))
    assert hand.wait_for(TaskReply).message.body.result.status is Status.COMPLETED


def test_a_loss_that_is_not_finite_is_an_error_reply_and_the_agent_lives_on(hand: Hand) -> None:
    hand.start("agent")
    wild = RECIPE.model_copy(update={"learning_rate": 9.9, "weight_decay": 1.0, "epochs": 200, "momentum": 0.99})
    bad = Train(architecture=STUDENT_NET, data=source(), recipe=wild)
    good = Train(architecture=STUDENT_NET, data=source(), recipe=RECIPE)
    hand.say("agent", TaskRequest(task=bad, attempt=1))
    error = hand.wait_for(ErrorReply, TaskReply).message.body
    assert isinstance(error, ErrorReply) and error.code == "non_finite_loss"
    hand.say("agent", TaskRequest(task=good, attempt=1))
    assert hand.wait_for(TaskReply).message.body.result.status is Status.COMPLETED


def test_a_student_that_leaves_in_the_middle_leaves_nothing_with_its_teacher(hand: Hand) -> None:
    teacher = trained_teacher(hand.folder)
    task = lesson_task(teacher)
    long = task.model_copy(update={"recipe": RECIPE.model_copy(update={"epochs": 500})})
    hand.start("teacher", "leaving", "staying")
    hand.say("teacher", TeachRequest(architecture=teacher.architecture, weights=teacher.weights, data=task.data))
    hand.wait_for(TeachReply)
    taught = (TaughtBy(weights=teacher.weights, peer=hand.addresses["teacher"]),)
    hand.say("leaving", TaskRequest(task=long, attempt=1, teachers=taught))
    hand.wait_for(TaskProgressEvent)
    psutil.Process(hand.agents["leaving"].pid).kill()
    deadline = time.monotonic() + 30
    while True:
        hand.say("teacher", StatusRequest())
        if hand.wait_for(StatusReply).message.body.counters["leases"] == 0:
            break
        assert time.monotonic() < deadline, "what was lent to the student that left is still lent"
        time.sleep(0.2)
    hand.say("staying", TaskRequest(task=task, attempt=1, teachers=taught))
    assert hand.wait_for(TaskReply).message.body.result.weights == in_one_call(task, hand.folder).weights
