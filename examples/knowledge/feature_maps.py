"""Feature maps: a small network is drawn to what a large one makes of the same images inside. No folder is shared."""

import agentkd

DATA = "generated:seed=7,size=32x32,train=16,validation=8,test=8"


def main(record: str = "runs/feature_maps", epochs: int = 2) -> agentkd.TaskResult:
    with agentkd.Community(devices="cpu:2", record=record, own_folders=True) as community:
        big, small = (community.agent(f"of-{base}", "unet", base=base, depth=2) for base in (16, 8))
        big.train(DATA, epochs=epochs).result()
        lesson = small.distill(big, DATA, [agentkd.Features(taps={"encoder.1": "encoder.1"})], epochs=epochs)
        print(f"mIoU of the large one {big.miou:.3f}, of the small one {lesson.result().miou:.3f}")
        return lesson.result()


if __name__ == "__main__":
    main()
