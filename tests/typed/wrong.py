"""What a script may not write: a type checker finds exactly what stands in each line's last word."""

import agentkd
from agentkd import Comunity  # attr-defined
from agentkd.names import TaskKey
from agentkd.task import TeacherReference

print(Comunity)
agentkd.Comunity()  # attr-defined
agentkd.objectives.Dkdd()  # attr-defined
agentkd.errors.ConfgError("no")  # attr-defined
agentkd.testing.check_objektive()  # attr-defined
agentkd.Dkd(temperature="hot")  # arg-type
agentkd.SoftTargets(temperatur=2)  # call-arg
agentkd.run_experiment("experiment.yaml", "runs/a")  # arg-type
agentkd.testing.check_objective("my_module:Absolute")  # arg-type
TeacherReference(architecture=None, weights=TaskKey("4f1c"))  # arg-type
with agentkd.Community(devices=2) as community:  # arg-type
    community.agent(5)  # call-arg,arg-type
    community.agents()  # attr-defined
    agent = community.agent("a", "unet")
    print(agent.train("generated:").result().mIoU)  # attr-defined
    agent.distill("big", "generated:")  # arg-type
    agentkd.mutual(agent, "other", data="generated:")  # arg-type
    agentkd.Educated(agent, "generated:", rules={"policy": "weights"})  # arg-type
    agentkd.Rules(policy="homework")  # arg-type
