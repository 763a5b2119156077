"""A large network teaches a small one, each in a process of its own. About two minutes on two cores."""

import agentkd

DATA = "generated:seed=7,size=64x64,train=80,validation=24,test=24"
VIEWS = agentkd.ViewSettings(crop_height=64, crop_width=64, scale_min=1.0, scale_max=1.5)


def main(out: str = "runs/teach", epochs: int = 4) -> None:
    with agentkd.Community(devices="cpu:2", record=out) as community:
        big = community.agent("big", "unet", num_classes=5, base=16, depth=3)
        alone = community.agent("alone", "unet", num_classes=5, base=8, depth=2)
        small = community.agent("small", "unet", num_classes=5, base=8, depth=2)

        waiting = [agent.train(DATA, epochs=epochs, views=VIEWS) for agent in (big, alone)]
        for name, done in zip(("the teacher", "the small network alone"), waiting, strict=True):
            print(f"mIoU of {name}: {done.result().miou:.3f}")

        lesson = small.distill(
            big, DATA, [agentkd.SoftTargets(temperature=2)], alpha=0.5, start="scratch", epochs=epochs, views=VIEWS
        )
        result = lesson.result()
        print(f"mIoU of the small network taught: {result.miou:.3f}; weights {result.weights[:12]}")
        print(f"soft targets: {result.exchange.requests} requests, {result.exchange.bytes_received / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
