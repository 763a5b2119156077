"""Three agents that know different light end up knowing all of it, without labels and without anybody deciding for them."""

import agentkd
from agentkd import Educated, Rules, education_cycle
from agentkd.community.rules import Protection, Retention, retention

LIGHTS = ("day", "dusk", "infrared")
SCENES = "generated:seed={seed},size=48x48,train=48,validation=16,test=16,light={light}"
RECIPE = {"batch_size": 4, "learning_rate": 0.05, "validate_every": 4}


def main(
    record: str = "runs/education", seed: int = 1, protection: Protection = "replay", epochs: int = 40, devices: str = "cpu:2"
) -> Retention:
    data = [SCENES.format(seed=10 * seed + i, light=light) for i, light in enumerate(LIGHTS)]
    recipe = RECIPE | {"views": agentkd.ViewSettings(crop_height=48, crop_width=48, scale_max=1.4), "epochs": epochs}
    with agentkd.Community(devices=devices, record=record, seed=seed) as community:
        networks = [community.agent(f"knows-{light}", "unet", base=8, depth=3) for light in LIGHTS]
        for lesson in [network.train(own, **recipe) for network, own in zip(networks, data, strict=True)]:
            lesson.result()
        agents = [Educated(network, own, Rules(protection=protection)) for network, own in zip(networks, data, strict=True)]
        scores = [{agent.name: [agent.agent.evaluate(one).miou for one in data] for agent in agents}]
        learned = {agent.name: [0 if one in agent.learned else -1 for one in data] for agent in agents}
        print(f"before: mean mIoU {100 * retention(scores, learned).average:.1f} %", flush=True)
        for cycle, new in enumerate(data, start=1):
            for name, decision in education_cycle(agents, new, **recipe).items():
                print(f"cycle {cycle}, {LIGHTS[cycle - 1]}: {name} is {decision.role}, {decision.reason}")
                if decision.teachers:
                    learned[name][cycle - 1] = cycle
            scores.append({agent.name: [agent.agent.evaluate(one).miou for one in data] for agent in agents})
            kept = retention(scores, learned)
            average, forgetting, backward = (100 * figure for figure in (kept.average, kept.forgetting, kept.backward_transfer))
            told = f"mean mIoU {average:.1f} %, forgetting {forgetting:.1f}, backward transfer {backward:.1f}"
            print(f"after cycle {cycle}: {told}", flush=True)
    return kept


if __name__ == "__main__":
    main()
