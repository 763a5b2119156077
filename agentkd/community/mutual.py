"""Students that teach each other."""

from collections.abc import Sequence
from typing import Any

from agentkd.code.taking import take
from agentkd.community.futures import Lesson
from agentkd.community.handles import AgentHandle
from agentkd.community.teachers import must_be_different, refuse_no_list
from agentkd.community.works import Data
from agentkd.config import checked
from agentkd.errors import ConfigError
from agentkd.objectives import Objective, SoftTargets
from agentkd.recipe import Distillation
from agentkd.task import Mutual, Partner


def mutual(
    *students: AgentHandle,
    data: Data,
    objectives: Sequence[Objective] = (SoftTargets(temperature=1),),
    alpha: float = 0.5,
    codec: str = "float16",
    **recipe: Any,
) -> tuple[Lesson, ...]:
    """Has networks learn together: in each step everyone is taught by what all others make of the same batch.

    All of them learn at the same time, each in an agent of its own, so as many agents as students are needed.

    Args:
        students: two or more networks of one community.
        data: a dataset, or its specification.
        objectives: what of the others' logits is learned; their probabilities are averaged.
        alpha: weight of the labels.
        codec: how logits travel.
        recipe: fields of ``Recipe``; those that are not given are each family's own, but all need the same number of steps.

    Returns:
        A future for each student, in their order.

    Raises:
        ConfigError: there are fewer than two students, two are of one network, there are not as many agents, or the recipes do
            not go together.

    Source: Zhang et al., "Deep Mutual Learning", CVPR 2018.
    """
    refuse_no_list("objectives", objectives)
    if not all(isinstance(student, AgentHandle) for student in students):
        raise ConfigError("mutual(a, b, ..., data=...) takes networks of a community, each for itself, and then the data by name")
    community = students[0].community if students else None
    if community is None or len(set(students)) < 2 or any(student.community is not community for student in students):
        raise ConfigError("mutual teaching needs two or more different networks of one community")
    why = "of two lessons at the same time one would be lost; let its heads learn one after the other"
    must_be_different(students, "mutual teaching", why)
    if community.num_learners is not None and community.num_learners < len(students):
        raise ConfigError(
            f"{len(students)} students that teach each other need as many agents, and there are {community.num_learners}; "
            f'give Community(devices="cpu:{len(students)}"), or a device for each'
        )
    students = tuple(student.by_data(data) for student in students)
    fields = {"objectives": tuple(objectives), "alpha": alpha, "codec": codec}
    chosen = checked(Distillation, fields, source="mutual").with_code(take)
    inputs = [student.inputs(data, recipe) for student in students]
    partners = [Partner.model_validate({name: one[name] for name in Partner.model_fields}) for one in inputs]
    others = [sorted(partners[:i] + partners[i + 1 :], key=lambda partner: partner.digest) for i in range(len(inputs))]
    tasks = [
        checked(Mutual, own | {"distillation": chosen, "partners": tuple(listed)}, source="mutual")
        for own, listed in zip(inputs, others, strict=True)
    ]
    labels = [f"mutual lesson of {student.name}" for student in students]
    lessons = community.submit(*zip(tasks, labels, strict=True))
    for student, task, lesson in zip(students, tasks, lessons, strict=True):
        student.take_up(lesson, task, community.classes(data))
    return lessons
