"""How many tasks an experiment has at most, by what they are for."""

from agentkd.experiment import Experiment

TESTS = "test"


def task_counts(experiment: Experiment) -> dict[str, int]:
    """At most: trials that are infeasible come on top, and what is equal is done once."""
    families, seeds = len(experiment.families), experiment.seeds
    one_teacher = experiment.round2.has_one_teacher
    round2 = 0 if families == 1 else families - 1 if one_teacher else families
    counts = {
        "baseline": families,
        "trial": sum(map(experiment.trials, experiment.families)),
        "trial again": families * experiment.search.confirm * experiment.search.confirm_seeds,
        "lesson in round 1": families * experiment.round1.students,
        "lesson in round 2": round2,
        "training alone": (families * experiment.round1.students + round2) * experiment.control,
        TESTS: families,
    }
    if experiment.test_every_stage:
        counts[TESTS] = 2 * families + sum(counts[what] for what in ("lesson in round 1", "lesson in round 2", "training alone"))
    return {what: count * seeds for what, count in counts.items() if count}
