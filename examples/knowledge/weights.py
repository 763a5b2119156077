"""Weights: a student begins where its teacher is. No folder is shared; the file goes from one agent to the other."""

import agentkd

DATA = "generated:seed=7,size=32x32,train=16,validation=8,test=8"


def main(record: str = "runs/weights", epochs: int = 2) -> agentkd.TaskResult:
    with agentkd.Community(devices="cpu:2", record=record, own_folders=True) as community:
        teacher, student = (community.agent(name, "unet", base=8, depth=2) for name in ("teacher", "student"))
        teacher.train(DATA, epochs=epochs).result()
        lesson = student.distill(teacher, DATA, start="inherit", epochs=epochs)
        print(f"mIoU of the teacher {teacher.miou:.3f}, of who began as it is {lesson.result().miou:.3f}")
        return lesson.result()


if __name__ == "__main__":
    main()
