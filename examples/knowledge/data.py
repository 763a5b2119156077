"""Data: one agent packs what it learned from, and another, which has no such files, learns from the piece and its owner."""

import agentkd

DATA = "generated:seed=7,size=32x32,train=16,validation=8,test=8"


def main(record: str = "runs/data", epochs: int = 2) -> agentkd.TaskResult:
    with agentkd.Community(devices="cpu:2", record=record, own_folders=True) as community:
        owner, other = (community.agent(name, "unet", base=8, depth=2) for name in ("owner", "other"))
        owner.train(DATA, epochs=epochs).result()
        shared = owner.share_data().result()
        lesson = other.distill(owner, shared, epochs=epochs)
        print(f"{shared.spec[:19]}: mIoU of its owner {owner.miou:.3f}, of the other {lesson.result().miou:.3f}")
        return lesson.result()


if __name__ == "__main__":
    main()
