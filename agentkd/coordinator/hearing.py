"""What agents say, heard: messages, lost agents and collected results become events for the dispatcher."""

import logging
import time
from functools import partial

from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator import blame, events
from agentkd.coordinator.answers import Answer, to_what_was_asked
from agentkd.coordinator.collecting import Collected, Collector, Inspection
from agentkd.coordinator.deeds import Deeds
from agentkd.coordinator.handing_over import HandingOver
from agentkd.coordinator.members import LateAgent, Members
from agentkd.coordinator.watching import Watcher
from agentkd.errors import (
    AgentLostError,
    ExchangeError,
    OutOfMemoryError,
    RemoteAgentError,
    ResultError,
    StorageError,
    ThreadsError,
)
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import Delivery
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import (
    Capability,
    ErrorReply,
    HeartbeatEvent,
    HelloRequest,
    KnowledgeRequest,
    LeftEvent,
    ReleaseEvent,
    TaskProgressEvent,
    TaskReply,
    TeachReply,
)
from agentkd.names import AgentName, PublicKey
from agentkd.task import Task, TaskResult

log = logging.getLogger(__name__)


class Hearing:
    """Makes events of what arrives. One thread calls its methods, but for what collectors ask.

    Args:
        folder: of the run.
        config: how much of what guests hand in is looked at again.
        watcher: who is told who comes and goes.
        members: the agents.
        deeds: who is told the events.
        is_forgiving: as of ``Crew``.
        carrier: of pieces that were lent to agents.
        handing_over: answers who asks for artifacts.
        collector: brings results' artifacts into the store.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: LaunchConfig,
        watcher: Watcher,
        members: Members,
        deeds: Deeds,
        *,
        is_forgiving: bool,
        carrier: Carrier,
        handing_over: HandingOver,
        collector: Collector,
    ) -> None:
        self._folder, self._config, self._watcher, self._members, self._deeds = folder, config, watcher, members, deeds
        self._is_forgiving = is_forgiving
        self._carrier, self._handing_over, self._collector = carrier, handing_over, collector

    def collected(self, collected: Collected) -> None:
        """A result's artifacts are in the store, or could not be brought there."""
        body, error = collected.reply, collected.error
        if error is None:
            doing = self._deeds.underway.current(collected.agent, body.task, body.attempt)
            if doing:
                doing.result = collected.result
            self._deeds.handle(events.Ended(collected.agent, body.task, body.attempt))
            return
        if isinstance(error, StorageError):  # this coordinator's own disk
            raise error
        failed = ErrorReply.of(error, task=body.task, attempt=body.attempt)
        if not isinstance(error, ResultError):
            text = f"its artifacts could not be fetched: {failed.text}"
            failed = failed.model_copy(update={"code": ExchangeError.code, "text": text})
        self._receive_error(collected.agent, failed)

    def said(self, delivery: Delivery) -> None:
        """A message of an agent."""
        name = self._members.name_of(delivery.sender)
        if not name:
            return
        body = delivery.message.body
        self._members.note_message(name)
        if isinstance(body, HelloRequest):
            self._join(name, body)
        elif isinstance(body, HeartbeatEvent):
            self._members.note_heartbeat(name, body)
            if self._deeds.requests.is_lost(name, is_busy=body.is_busy, now=time.monotonic()):
                self._watcher.tell(f"{name} has nothing to do, so what it was asked was lost; it is asked for again")
                self._deeds.handle(events.Idle(name))
        elif isinstance(body, TaskProgressEvent):
            self._deeds.note_progress(name, body)
        elif isinstance(body, TaskReply | TeachReply | ErrorReply):
            self._receive_answer(name, delivery, body)
        elif isinstance(body, KnowledgeRequest):
            self._handing_over.answer(delivery, body, self._deeds.needs(name))
        elif isinstance(body, ReleaseEvent):
            self._carrier.release(delivery.sender, body.leases)
        elif isinstance(body, LeftEvent):
            self._members.note_left(name, body.reason)
            if self._members.is_guest(name):
                self.lost(self._members.drop(name, body.reason or "it left"))

    def late(self, late: LateAgent) -> None:
        """An agent has not come, and the work goes on without it."""
        self._watcher.tell(late.text)
        actions = self._deeds.handle(events.Late(late.agent, spares_one=late.spares_one))
        for action in actions:
            if isinstance(action, events.Dismiss):
                self._watcher.tell(f"{action.agent} is ended, so that there is room for {late.agent}, which is to teach")

    def lost(self, lost: AgentLostError) -> None:
        """An agent is gone."""
        log.warning("%s\n%s", lost, lost.stderr_tail)
        member = self._deeds.dispatcher.state.members.get(lost.agent)
        has_run_code = member is not None and member.has_run_code
        blame.must_not_be_of_disk(lost, self._folder.place, has_run_code=has_run_code)
        where = f"; its log is {self._folder.logs / lost.agent}.log" if lost.agent_exit_code is not None else ""
        self._watcher.tell(f"{lost}{where}; its work, if any, goes to another agent")
        self._deeds.requests.forget(lost.agent)
        got_further = self._deeds.underway.note_lost(lost)
        closed = len(self._deeds.dispatcher.state.closed)
        is_crash = blame.is_crash(lost, has_run_code=has_run_code)
        self._deeds.handle(events.Lost(lost.agent, is_crash, got_further, lost.lacks_memory))
        if len(self._deeds.dispatcher.state.closed) > closed:
            self._watcher.tell(f"nobody is started in the place of {lost.agent}, so that there is more room")

    def _join(self, name: AgentName, hello: HelloRequest) -> None:
        if self._members.is_late(name):
            self._watcher.tell(f"{name} came after all")
        is_new = self._members.joined(name, hello)
        if self._members.is_guest(name):
            learns = Capability.LEARN in hello.capabilities
            what = f"teaches {hello.teaches[:12]}" if hello.teaches else "learns" if learns else "looks on"
            self._watcher.tell(f"{name} came as a guest and {what}")
            self._deeds.handle(events.Arrived(name, learns, hello.teaches))
        elif is_new:
            self._deeds.handle(events.Joined(name, self._members.whereabouts_of(name)))

    def _receive_answer(self, name: AgentName, delivery: Delivery, said: Answer) -> None:
        """What an agent says about anything but what it was asked is no answer, and nobody waits for another."""
        asked = self._deeds.requests.answered(name, delivery.message.parent_id)
        body = to_what_was_asked(asked, said)
        if isinstance(body, TaskReply):
            self._take_result(name, delivery.sender, body)
        elif isinstance(body, ErrorReply):
            self._receive_error(name, body, asked)
        elif asked:
            self._deeds.handle(events.Ready(name, body.weights))

    def _take_result(self, name: AgentName, public_key: PublicKey, body: TaskReply) -> None:
        """A result counts once the artifacts that it names are in the store, and a guest's has been looked at."""
        doing = self._deeds.underway.current(name, body.task, body.attempt)
        if doing:
            doing.result = body.result
            inspection = None
            if self._members.is_guest(name):
                inspection = Inspection(partial(self._inspect, doing.task), partial(self._max_bytes, doing.task))
            if self._collector.begin(name, public_key, body, inspection):
                return
        self._deeds.handle(events.Ended(name, body.task, body.attempt))

    def _inspect(self, task: Task, result: TaskResult) -> TaskResult:
        """On a collector's thread."""
        from agentkd.coordinator.inspecting import inspect  # needs torch, which a run without guests does without

        return inspect(task, result, self._folder.store, share=self._config.recheck_guests)

    def _max_bytes(self, task: Task) -> int:
        """On a collector's thread."""
        from agentkd.coordinator.inspecting import max_bytes

        return max_bytes(task, self._folder.store)

    def _receive_error(self, name: AgentName, body: ErrorReply, asked: events.Start | events.Teach | None = None) -> None:
        """An agent could not do something. A message that it refused to read names no task, but answers what it was ``asked``."""
        log.error("%s: %s (%s): %s", name, body.code, body.remote_type, body.text)
        is_refusal = not body.task
        if is_refusal and isinstance(asked, events.Start):
            body = body.model_copy(update={"task": asked.task, "attempt": asked.attempt})
        is_guest = self._members.is_guest(name)
        judged = blame.judge(body, is_guest=is_guest, is_refusal=is_refusal)
        if body.code == StorageError.code and not is_guest:
            raise blame.of_disk(self._folder.place, name, body.text)
        if body.code == ThreadsError.code and not is_guest:
            raise ThreadsError(f"what agent {name} needs")
        if judged.is_fatal and not self._is_forgiving:
            raise RemoteAgentError(name, body.code, body.remote_type, body.text)
        why = {"is_fault": judged.is_fault, "lacks_memory": body.code == OutOfMemoryError.code}
        if isinstance(asked, events.Teach):
            self._deeds.underway.could_not_adopt(asked.teacher.weights, body)
            self._fail(events.TeachingFailed(name, judged.may_teach, **why), body)
        if not body.task:
            return
        doing = self._deeds.underway.current(name, body.task, body.attempt)
        if doing:
            doing.error = body
        self._fail(events.Failed(name, body.task, body.attempt, judged.retryable, **why), body)

    def _fail(self, event: events.Failed | events.TeachingFailed, body: ErrorReply) -> None:
        """Has the dispatcher know, and tells of who was ended because memory was short."""
        device = self._members.device_of(event.agent)
        gone = [action.agent for action in self._deeds.handle(event) if isinstance(action, events.Dismiss)]
        if event.lacks_memory and gone:
            few = f"{', '.join(gone)} {'is' if len(gone) == 1 else 'are'} ended, and it is tried again with more room"
            self._watcher.tell(f"{event.agent} ran out of memory on {device}: {body.text.splitlines()[0]}; {few}")
