"""Test vectors of tasks: one of each kind and at the edges of what can be written, with its canonical JSON and its key."""

from dataclasses import dataclass
from typing import Any

from agentkd import canonical
from agentkd.architecture import Architecture, Setting
from agentkd.messages.bodies import TaskRequest
from agentkd.messages.vectors import DIGEST, SESSION
from agentkd.messages.wire import Buffer, Message, encode
from agentkd.names import SHARED, Digest
from agentkd.objectives import Features, Own, Payload, SoftTargets
from agentkd.recipe import Arithmetic, Distillation, Recipe, ViewSettings
from agentkd.task import (
    Assess,
    Average,
    Consolidate,
    Consolidation,
    DataSource,
    Decide,
    Distill,
    Evaluate,
    FeatureMaps,
    Mutual,
    Pack,
    Partner,
    Rehearsal,
    Task,
    TeacherReference,
    Train,
)
from agentkd.task.rules import Offer, Rules

OTHER = Digest("cd" * 32)


@dataclass(frozen=True)
class TaskVector:
    """A task with a name; ``note`` says what is to be seen in it."""

    name: str
    task: Task
    note: str

    @property
    def frames(self) -> tuple[Buffer, ...]:
        """The task as it is given to an agent."""
        return tuple(encode(Message(TaskRequest(task=self.task, attempt=1), 10, 0, SESSION)))

    def readable(self) -> dict[str, Any]:
        """For human eyes, and for tests: ``task`` is as in a message, ``canonical`` is the text whose SHA-256 is ``key``."""
        text = canonical.encode(self.task.canonical()).decode()
        said = self.task.model_dump(mode="json")
        return {"name": self.name, "note": self.note, "key": self.task.key, "canonical": text, "task": said}


def task_vectors() -> list[TaskVector]:
    """Every one, in the order of kinds."""
    network = Architecture(family="unet", num_classes=3)
    data = DataSource(spec="generated:seed=7,size=64x64", content_digest=DIGEST)
    work: dict[str, Any] = {"architecture": network, "data": data}
    own = Architecture(family="my_nets:small", num_classes=3, code=OTHER)
    teacher = TeacherReference(architecture=network, weights=DIGEST)
    routed = teacher.replace(weights=OTHER, share=2.0, class_shares=(0.5, 1.0, 0.25))
    kept = Consolidation(anchors=DIGEST, importance=OTHER)
    settings: dict[str, Setting] = {
        "whole": 1,
        "float": 1.0,
        "text": "1",
        "yes": True,
        "small": 1e-5,
        "large": 1e16,
        "zero": -0.0,
        "third": 1 / 3,
    }
    told = 'quote " backslash \\ tab \t bell \a delete \x7f umlaut \u00e4 line \u2028 forest \U0001f332'
    objective = Own(path="my_losses:Own", code=OTHER, settings={"width": 1, "power": 1.0}, sends=(Payload(),), schedule="rise")
    partners = (Partner(architecture=network, recipe=Recipe(), seed=1), Partner(architecture=network, recipe=Recipe(), seed=2))

    def look(kind: type[Any], **fields: Any) -> Any:
        return kind(**work, initial_weights=DIGEST, **fields)

    return [
        TaskVector("train", Train(**work), "nothing but what is needed: all ten fields are there all the same"),
        TaskVector(
            "train_full",
            Train(
                **work,
                recipe=Recipe(epochs=3, views=ViewSettings(crop_height=32, crop_width=32)),
                seed=5,
                view_seed=6,
                initial_weights=DIGEST,
                pretrained=OTHER,
                max_deploy_parameters=7,
                max_num_macs=8,
                prune_below=(0.1, 0.25),
                consolidation=kept,
            ),
            "every field",
        ),
        TaskVector(
            "train_balanced",
            Train(**work, recipe=Recipe(loss="ohem", class_weights=(0.5, 2, 0.5), sampler="rare_class", sampler_temperature=0.1)),
            "weights of classes, which are numbers whatever they are written as, hard pixels and a sampler: otherwise left out",
        ),
        TaskVector(
            "train_numbers",
            Train(
                architecture=Architecture(family="unet", num_classes=3, settings=settings),
                data=data,
                recipe=Recipe(learning_rate=1e-5, weight_decay=1.0, momentum=0.0, clip_norm=1e16),
                seed=2**64 - 1,
                view_seed=-(2**63),
            ),
            "integers to 64 bits; 1, 1.0, -0.0, 1e-05 and 1e+16, which are written like this",
        ),
        TaskVector(
            "train_text", Train(architecture=network, data=data.replace(spec=told)), "text that is escaped, and text that is not"
        ),
        TaskVector("train_code", Train(architecture=own, data=data), "own code: the field code is there, and otherwise left out"),
        TaskVector(
            "train_revision",
            Train(architecture=network.replace(family="pidnet_s", revision=2), data=data),
            "a second revision of a family: the field revision is there, and otherwise left out",
        ),
        TaskVector(
            "train_heads",
            Train(
                architecture=network.with_heads({"fire": 3, "roads": 2}, "roads"),
                data=data,
                initial_weights=DIGEST,
                rehearsals=(Rehearsal(head="fire", data=data),),
            ),
            "a head for each task: heads, head and rehearsals are there, and otherwise left out",
        ),
        TaskVector("distill", Distill(**work, teachers=(teacher,), distillation=Distillation()), "one teacher, no route"),
        TaskVector(
            "distill_limited",
            Distill(
                **work,
                teachers=(teacher,),
                distillation=Distillation(),
                pretrained=OTHER,
                max_deploy_parameters=7,
                max_num_macs=8,
                prune_below=(0.1, 0.25),
                measures_latency=True,
            ),
            "a lesson within limits, as a search has it tried; measures_latency is left out where it is false",
        ),
        TaskVector(
            "train_timed",
            Train(**work, measures_latency=True, max_latency_ms=2.5),
            "a limit on latency, which is a number: max_latency_ms is left out where it is 0",
        ),
        TaskVector(
            "distill_routed",
            Distill(
                **work,
                teachers=(teacher.replace(class_shares=(1.0, 0.0, 0.0)), routed),
                distillation=Distillation(
                    objectives=(SoftTargets(temperature=4), Features(taps={"a": "b"}), objective), alpha=0.25
                ),
            ),
            "two teachers with routes; objectives, of which one has a schedule and code, and the others leave both out",
        ),
        TaskVector(
            "distill_guest",
            Distill(**work, teachers=(TeacherReference(architecture=None, weights=OTHER),), distillation=Distillation()),
            "a teacher without an architecture: it is null, and stays",
        ),
        TaskVector(
            "mutual",
            Mutual(**work, distillation=Distillation(), partners=tuple(sorted(partners, key=lambda one: one.digest))),
            "partners stand in the order of the digests of their canonical JSON",
        ),
        TaskVector("evaluate", look(Evaluate), "a kind without recipe or seed"),
        TaskVector(
            "evaluate_otherwise",
            look(Evaluate, arithmetic=Arithmetic(precision="bfloat16", folded=True)),
            "what is as usual in how the network computes is left out",
        ),
        TaskVector(
            "distill_otherwise",
            Distill(
                **work,
                recipe=Recipe(precision="bfloat16", validation_precision="bfloat16", channels_last=True, compiled=True),
                teachers=(teacher,),
                distillation=Distillation(arithmetic=Arithmetic(channels_last=True)),
            ),
            "how student and teacher compute: otherwise left out",
        ),
        TaskVector("assess", look(Assess, home=data.replace(spec="camvid:path=camvid")), "with a home"),
        TaskVector("assess_homeless", look(Assess), "without one: left out"),
        TaskVector(
            "features",
            look(FeatureMaps, views=((0, 1), (2, 3)), view_settings=ViewSettings(flip=0.0), taps=("layer1",)),
            "view_settings stand in the place of the recipe's views",
        ),
        TaskVector("consolidate", look(Consolidate, seed=3, consolidation=kept), "an importance until now"),
        TaskVector("average", Average(**work, teachers=(teacher, teacher.replace(weights=OTHER, share=0.5))), "two by shares"),
        TaskVector("pack_data", Pack(**work, what="data", splits=("validation", "train")), "splits in their samples' order"),
        TaskVector("pack_architecture", Pack(**work, what="architecture"), "no splits: left out"),
        TaskVector(
            "decide",
            Decide(
                **work,
                me=Offer("a", 0.25, 0.5),
                others=(Offer("b", 1.0, 0.75),),
                rules=Rules(rule="my_rules:careful", code=OTHER),
                taught=(("c", ("a",)),),
            ),
            "what it finds of itself, what the others say, its rules, one of its own, and who learned from whom",
        ),
        TaskVector(
            "train_shared",
            Train(architecture=network, data=DataSource(spec=f"few:8:{SHARED}{OTHER}", content_digest=DIGEST)),
            "data that are in an artifact, which the specification names",
        ),
    ]
