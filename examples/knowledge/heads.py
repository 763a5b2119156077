"""One network, two tasks: a head for each on one trunk, each at home in its own data, and each teaches students of its own."""

import agentkd

DAY, INFRARED = (f"generated:seed=7,size=32x32,train=16,validation=8,test=8,light={light}" for light in ("day", "infrared"))


def main(record: str = "runs/heads", epochs: int = 20, learning_rate: float = 0.01) -> dict[str, str]:
    how = {"epochs": epochs, "learning_rate": learning_rate}
    with agentkd.Community(devices="cpu:2", record=record) as community:
        both = community.agent("both", "unet", base=8, depth=2, heads={"day": 5, "infrared": 5})
        both.head("day").train(DAY, **how).result()
        both.head("infrared").train(INFRARED, rehearse={"day": DAY}, **how).result()  # keeps what the other head says
        student = community.agent("student", "unet", base=8, depth=1)
        student.distill(both.head("infrared"), f"unlabelled:{INFRARED}", alpha=0, hard_loss="none", **how).result()
        agent = agentkd.Educated(both, {"day": DAY, "infrared": INFRARED})
        print({name: round(both.head(name).evaluate(data).miou, 3) for name, data in (("day", DAY), ("infrared", INFRARED))})
        return {data: agent.speaking(data).name for data in (DAY, INFRARED)}  # which of its heads knows what


if __name__ == "__main__":
    main()
