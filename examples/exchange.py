"""What agents can hand each other, in one script: soft targets, feature maps, weights, what they know. A minute on two cores."""

import agentkd

SMALL = {"batch_size": 4, "views": agentkd.ViewSettings(crop_height=32, crop_width=32, scale_min=1.0, scale_max=1.0)}


def main(record: str = "runs/exchange", epochs: int = 3) -> None:
    with agentkd.Community(devices="cpu:2", record=record) as community:
        data = agentkd.open_dataset("generated:seed=7,size=32x32,train=32,validation=8,test=8")
        big = community.agent("big", "unet", base=16, depth=2)
        small = community.agent("small", "unet", base=8, depth=2)

        big.train(data, epochs=epochs, **SMALL).result()
        print(f"big knows {big.assess(data).known_fraction:.2f} of the validation images")

        objectives = [agentkd.SoftTargets(temperature=4), agentkd.Features(taps={"encoder.1": "encoder.1"}, weight=1)]
        lesson = small.distill(big, data, objectives, epochs=epochs, **SMALL)
        for event in lesson.progress():
            print(f"step {event.step} of {event.steps}: loss {event.loss:.3f}")
        print(f"mIoU {lesson.result().miou:.3f}, weights {lesson.result().weights[:12]}")

        maps = big.feature_maps(data.views([3, 4], seed=1), taps=["encoder.1"]).result()
        print({name: tuple(value.shape) for name, value in maps.items()})

        for agent, competence in community.who_knows(data):
            print(f"{agent.name}: mIoU {competence.miou:.3f}, calibration error {competence.calibration_error:.3f}")


if __name__ == "__main__":
    main()
