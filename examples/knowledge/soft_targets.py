"""Soft targets: a student learns how sure its teacher is of every class, and sees no labels. No folder is shared."""

import agentkd

DATA = "generated:seed=7,size=32x32,train=16,validation=8,test=8"


def main(record: str = "runs/soft_targets", epochs: int = 2) -> agentkd.TaskResult:
    with agentkd.Community(devices="cpu:2", record=record, own_folders=True) as community:
        teacher, student = (community.agent(name, "unet", base=8, depth=2) for name in ("teacher", "student"))
        teacher.train(DATA, epochs=epochs).result()
        soft = [agentkd.SoftTargets(temperature=4)]
        lesson = student.distill(teacher, f"unlabelled:{DATA}", soft, alpha=0, hard_loss="none", epochs=epochs)
        print(f"mIoU of the teacher {teacher.miou:.3f}, of its student {lesson.result().miou:.3f}")
        return lesson.result()


if __name__ == "__main__":
    main()
