"""Architecture: one agent tells what its network is, and another builds the like and is taught by it. No folder is shared."""

import agentkd

DATA = "generated:seed=7,size=32x32,train=16,validation=8,test=8"


def main(record: str = "runs/architecture", epochs: int = 2) -> agentkd.TaskResult:
    with agentkd.Community(devices="cpu:2", record=record, own_folders=True) as community:
        teacher, student = community.agent("teacher", "unet", base=8, depth=3), community.agent("student", "pidnet_s")
        teacher.train(DATA, epochs=epochs).result()
        student.become(teacher.share_architecture().result())
        lesson = student.distill(teacher, DATA, epochs=epochs)
        print(f"{student.architecture.family} {student.architecture.settings}: mIoU {lesson.result().miou:.3f}")
        return lesson.result()


if __name__ == "__main__":
    main()
