"""Which networks go on: the rules on the paper's own numbers, the gates, users' own rules, and what the plan makes of them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning import ONE, Outcome, end_of, experiment, invented, planner, play
from pydantic import TypeAdapter, ValidationError

from agentkd.artifacts.journal import Journal
from agentkd.code.taking import take
from agentkd.coordinator import choices, generations, own_parts
from agentkd.errors import ConfigError
from agentkd.experiment import BEFORE, Experiment, RecordedExperiment
from agentkd.names import NO_DIGEST, TaskKey
from agentkd.pipeline.choosing import Chooser, Question
from agentkd.pipeline.counting import TESTS, task_counts
from agentkd.pipeline.plan import Outlook, Planner
from agentkd.pipeline.stages import TABLE_STAGES, PlannedTask, Stage
from agentkd.report.paper import PAPER_TABLE
from agentkd.search.selection import Candidate, choose, is_kept
from agentkd.search.settings import Select
from agentkd.search.study import TrialOutcome
from agentkd.task import Distill, Evaluate, Status, TaskResult, Train

Given = dict[str, object]
Ask = Callable[..., tuple[TaskKey, ...]]
DATA = "generated:seed=5,size=32x32,train=16,validation=8,test=8"
RESULTS: dict[TaskKey, TaskResult] = {}


def candidate(task: str, miou: float, parameters: int, *, deploy: int = 0, macs: int = 0) -> Candidate:
    return Candidate(TaskKey(task), miou, parameters, deploy or parameters, macs or parameters)


def printed(family: str) -> list[Candidate]:
    """A family's row of Table I, a candidate for each stage."""
    sizes = {"M": 1_000_000}
    return [
        candidate(stage.value, cell.miou_percent / 100, round(float(cell.parameters[:-1]) * sizes[cell.parameters[-1]]))
        for stage, cell in zip(TABLE_STAGES, PAPER_TABLE[family], strict=True)
    ]


@pytest.mark.parametrize("family", PAPER_TABLE)
def test_every_search_winner_of_table_i_is_the_smallest_within_the_tolerance_and_three_are_not_the_best(family: str) -> None:
    baseline, searched, *_ = printed(family)
    assert choose([baseline, searched], Select()).task == searched.task
    best = choose([baseline, searched], Select(rule="best")).task
    assert (best == baseline.task) is (family in ("cnn_i2i_bisenet", "pidnet_m", "pidnet_l"))


@pytest.mark.parametrize("family", PAPER_TABLE)
def test_every_lesson_of_table_i_is_kept_and_with_the_rule_best_all_but_the_one_of_bisenet(family: str) -> None:
    *_, before, after = printed(family)
    assert is_kept(before, after, Select())
    assert is_kept(before, after, Select(rule="best")) is (family != "cnn_i2i_bisenet")


def test_how_much_a_lesson_may_lose_is_said_by_itself() -> None:
    *_, before, after = printed("cnn_i2i_bisenet")
    assert not is_kept(before, after, Select(lesson_tolerance=0.0025)) and is_kept(before, after, Select(lesson_tolerance=0.0027))
    assert is_kept(before, after, Select(tolerance=0.0)) and not is_kept(
        before, after, Select(tolerance=0.5, lesson_tolerance=0.0)
    )


def test_the_tolerance_of_table_i_is_needed_and_is_no_more_than_that() -> None:
    baseline, searched, *_ = printed("cnn_i2i_bisenet")
    assert choose([baseline, searched], Select(tolerance=0.0063)).task == baseline.task
    assert choose([baseline, searched], Select(tolerance=0.0064)).task == searched.task


def test_a_fiftieth_of_the_parameters_is_worth_a_tenth_of_a_point_and_the_reasons_say_so() -> None:
    many = [candidate("published", 0.801, 7_760_000), candidate("small", 0.800, 136_000), candidate("poor", 0.739, 90_000)]
    choice = choose(many, Select())
    assert choice.task == "small" and set(choice.reasons) == {"published", "small", "poor"}
    assert choice.reason == "the fewest parameters within 0.70 points of the best mIoU (0.10 points behind the best)"
    assert choice.reasons["published"] == "57.06 times the parameters of the one chosen"
    assert choice.reasons["poor"] == "6.20 points behind the best, more than the 0.70 points allowed"


@pytest.mark.parametrize(("count", "chosen"), [("total", "a"), ("deploy", "b"), ("macs", "c")])
def test_what_is_counted_decides(count: str, chosen: str) -> None:
    many = [
        candidate("a", 0.5, 1, deploy=9, macs=9),
        candidate("b", 0.5, 9, deploy=1, macs=9),
        candidate("c", 0.5, 9, deploy=9, macs=1),
    ]
    for rule in ("smallest_within", "pareto_knee"):
        assert choose(many, Select(rule=rule, count=count)).task == chosen


def test_of_equally_small_ones_the_best_goes_on() -> None:
    assert choose([candidate("a", 0.50, 5), candidate("b", 0.501, 5)], Select()).task == "b"


def test_the_knee_is_where_more_parameters_stop_helping() -> None:
    front = [candidate(str(size), miou, size) for size, miou in ((10, 0.3), (100, 0.7), (1_000, 0.72), (10_000, 0.73))]
    choice = choose([*front, candidate("beaten", 0.65, 500)], Select(rule="pareto_knee"))
    assert choice.task == "100" and "fewer parameters" in choice.reasons["beaten"] and set(choice.reasons) > {"10", "10000"}
    assert choose(front[:1], Select(rule="pareto_knee")).task == "10"
    assert choose([front[0], front[-1]], Select(rule="pareto_knee")).task == "10000", "two ends have no bend between them"


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(1, 50)), min_size=1, max_size=12),
    st.sampled_from(("smallest_within", "best", "pareto_knee")),
)
def test_a_choice_depends_on_nothing_but_the_candidates(found: list[tuple[int, int]], rule: str) -> None:
    many = [candidate(f"{number:03}", miou / 100, size) for number, (miou, size) in enumerate(found)]
    select = Select(rule=rule, tolerance=0.05)
    choice = choose(many, select)
    assert choose(many[::-1], select) == choice and set(choice.reasons) == {one.task for one in many}
    chosen = next(one for one in many if one.task == choice.task)
    best = max(one.miou for one in many)
    assert rule == "pareto_knee" or chosen.miou >= best - (0.05 if rule == "smallest_within" else 0)
    better = [o for o in many if o.miou >= chosen.miou and o.total_parameters < chosen.total_parameters]
    assert rule == "best" or not better, "nobody smaller is as good"


@pytest.mark.parametrize("value", ["smallest", "best_of", "a b:c", "", "module:"])
def test_what_is_no_rule_is_refused_with_those_that_there_are(value: str) -> None:
    for part in ({"select": {"rule": value}}, {"round2": {"teachers": value}}):
        with pytest.raises(ConfigError, match=r"is not known; (did you mean|known: .*module:name)"):
            experiment(**part)
    with pytest.raises(ValidationError):
        Select(tolerance=1.0)


def by_size(step: PlannedTask) -> TaskResult:
    """Larger is a little better; lessons lose a tenth of a point."""
    result = invented(step)
    miou = 0.5 + result.num_parameters_total / 1e6 - (0.001 if isinstance(step.task, Distill) else 0)
    return result.model_copy(update={"miou": miou, "class_iou": (miou, None, 0.25, 1.0, 0.0)})


def test_a_family_goes_on_with_its_smallest_network_within_the_tolerance_and_says_why() -> None:
    outlook = end_of(planned(by_size))
    rows = {(row.family, row.stage): row for row in outlook.rows}
    for family in experiment().families:
        baseline, searched, taught = (rows[family, stage] for stage in (Stage.BASELINE, Stage.SEARCH, Stage.ROUND1))
        assert (
            searched.choice and searched.choice.task == searched.entrant.key and baseline.entrant.key in searched.choice.reasons
        )
        sizes = [baseline.entrant.result.num_parameters_total]
        sizes += [s.num_parameters_total for s in completed(outlook, family)]
        assert searched.entrant.result.num_parameters_total == min(sizes)
        assert taught.choice and taught.entrant.result.num_parameters_total == min(sizes)
    lost = [lesson for lesson in outlook.lessons if lesson.stage is Stage.ROUND1]
    assert lost and all(lesson.is_kept and lesson.reason == "-0.10 points, within the 0.70 that do not count" for lesson in lost)
    assert outlook.winner and outlook.choice and outlook.choice.task == outlook.winner.key


def planned(outcome: Outcome, **changes: object) -> Iterator[Outlook]:
    """Plays a plan through, and keeps the results."""
    RESULTS.clear()

    def noted(step: PlannedTask) -> TaskResult:
        RESULTS[step.key] = outcome(step)
        return RESULTS[step.key]

    return play(planner(**changes), noted)


def completed(outlook: Outlook, family: str) -> list[TaskResult]:
    found = [RESULTS[key] for key in outlook.trial_keys[family]]
    return [result for result in found if result.status is Status.COMPLETED]


def test_a_run_of_before_is_planned_as_it_was() -> None:
    """A record that says nothing of a choice is of a version that ranked by mIoU alone, and looked at final networks alone."""
    plain = experiment().canonical()
    recorded = {name: value for name, value in plain.items() if name not in ("select", "control", "test_every_stage", "seeds")}
    read: Experiment = TypeAdapter(RecordedExperiment).validate_python(recorded)
    assert read.select == Select(rule="best", count="deploy", baseline=False) and not read.test_every_stage and read.seeds == 1
    assert TypeAdapter(RecordedExperiment).validate_python(plain) == experiment()
    outlook = end_of(planned(by_size, **BEFORE))
    searched = [row.entrant for row in outlook.rows if row.stage is Stage.SEARCH]
    assert all(entrant.label.split()[-2] == "trial" for entrant in searched)
    assert sorted(outlook.tested) == sorted(row.entrant.key for row in outlook.rows if row.stage is Stage.ROUND2)


def test_the_test_split_is_looked_at_when_nothing_is_left_to_be_chosen_and_by_all_that_is_compared() -> None:
    for outlook in planned(by_size, control=True):
        tests = [step for step in outlook.steps if isinstance(step.task, Evaluate)]
        assert not tests or outlook.winner is not None
    compared = {row.entrant.key for row in outlook.rows}
    compared |= {e.key for lesson in outlook.lessons for e in (lesson.taught, lesson.alone) if e}
    assert set(outlook.tested) == compared and len(compared) > len(outlook.tests)
    assert all(outlook.tested[e.key].task.initial_weights == e.result.weights for e in (row.entrant for row in outlook.rows))


def test_without_a_test_split_only_the_final_networks_are_looked_at() -> None:
    outlook = end_of(planned(by_size, data={"dataset": DATA, "test": ""}))
    assert outlook.is_finished and set(outlook.tested) == {row.entrant.key for row in outlook.rows if row.stage is Stage.ROUND2}


def test_the_control_arm_is_the_lesson_without_its_teacher() -> None:
    without, arms = end_of(planned(by_size)), end_of(planned(by_size, control=True))
    assert all(lesson.alone is None for lesson in without.lessons) and arms.lessons
    for lesson in arms.lessons:
        assert lesson.taught and lesson.alone
        taught, alone = lesson.taught.task, lesson.alone.task
        assert isinstance(taught, Distill) and isinstance(alone, Train)
        for field in ("architecture", "data", "recipe", "seed", "view_seed", "initial_weights"):
            assert getattr(taught, field) == getattr(alone, field)
    assert [row.entrant.key for row in arms.rows] == [row.entrant.key for row in without.rows], "nothing goes on with it"


def test_a_control_arm_that_fails_changes_nothing() -> None:
    def outcome(step: PlannedTask) -> TaskResult:
        is_alone = isinstance(step.task, Train) and step.stage.traits.is_round
        return TaskResult(status=Status.FAILED, error_text="no") if is_alone else by_size(step)

    outlook = end_of(planned(outcome, control=True))
    assert outlook.is_finished and all(lesson.alone is None for lesson in outlook.lessons)


def test_epochs_in_all_count_what_a_network_started_from() -> None:
    outlook = end_of(planned(lambda step: by_size(step).model_copy(update={"epochs": 7})))
    final = [row.entrant for row in outlook.rows if row.stage is Stage.ROUND2]
    assert {entrant.epochs_in_all for entrant in final} == {14, 21}, "one lesson, or for all but the teacher of round 2 two"


def test_several_seeds_are_several_runs_in_one() -> None:
    alone = [end_of(planned(by_size, seed=seed)) for seed in (3, 4)]
    both = end_of(planned(by_size, seed=3, seeds=2))
    assert both.is_finished and [one.seed for one in (both, *both.repeats)] == [3, 4]
    assert both.keys == alone[0].keys | alone[1].keys
    for one, single in zip((both, *both.repeats), alone, strict=True):
        assert [row.entrant.key for row in one.rows] == [row.entrant.key for row in single.rows]
    first = planner(seed=3, seeds=2).outlook({})
    assert [step.label for step in first.steps].count("baseline, seed 4") == 2


def test_several_seeds_as_completed_see_their_own_trials_alone() -> None:
    search = {"epochs": 3, "trials": 4, "lag": 2, "order": "as_completed"}
    plan, results, asks = planner(seeds=2, search=search, **ONE), {}, {}
    for _ in range(200):
        outlook = plan.outlook(results, asks)
        for study, asked in outlook.asks.items():
            asks.setdefault(study, {}).update(asked)
        if outlook.is_finished:
            break
        results[outlook.steps[-1].key] = by_size(outlook.steps[-1])
    assert outlook.is_finished and set(asks) == {"tiny_networks:tiny", "tiny_networks:tiny@4"}
    assert all(
        t.outcome is not TrialOutcome.RUNNING for one in (outlook, *outlook.repeats) for t in one.trials["tiny_networks:tiny"]
    )


@pytest.mark.parametrize(
    "changes", [{}, {"control": True}, {"seeds": 2}, {"test_every_stage": False}, {"round2": {"teachers": "ensemble"}}]
)
def test_tasks_are_counted_before_they_are_known(changes: Given) -> None:
    given = {"search": {"epochs": 3, "trials": 5, "patience": 0}, "round1": {"epochs": 1, "students": 1}} | changes

    def outcome(step: PlannedTask) -> TaskResult:
        return invented(step, int(step.key[:6], 16) / 16**6)

    wanted = {step.key: step.stage for outlook in planned(outcome, **given) for step in outlook.steps}
    counts = task_counts(experiment(**given))
    of_stage = {stage: sum(one is stage for one in wanted.values()) for stage in Stage}
    assert (of_stage[Stage.BASELINE], of_stage[Stage.SEARCH]) == (counts["baseline"], counts["trial"])
    rounds = sum(count for what, count in counts.items() if what.startswith(("lesson", "training alone")))
    assert of_stage[Stage.ROUND1] + of_stage[Stage.ROUND2] == rounds
    assert 0 < of_stage[Stage.TEST] <= counts[TESTS], "what is one network is looked at once"


def test_without_the_published_settings_first_every_trial_is_drawn_and_has_its_limits() -> None:
    search: Given = {"epochs": 3, "trials": 3, "max_deploy_ratio": 0.5, "published_first": False}
    steps = [step for outlook in planned(by_size, search=search, **ONE) for step in outlook.steps if step.stage is Stage.SEARCH]
    first = next(step.task for step in steps if step.label == "trial 0")
    assert isinstance(first, Train) and first.max_deploy_parameters == 600
    usual = [step for outlook in planned(by_size, search=search | {"published_first": True}, **ONE) for step in outlook.steps]
    published = next(step.task for step in usual if step.label == "trial 0")
    assert isinstance(published, Train) and published.max_deploy_parameters == 0
    assert published.architecture != first.architecture or published.recipe != first.recipe


@pytest.mark.parametrize("part", ["round1", "round2"])
def test_by_competence_all_others_teach_each_what_it_knows_best(part: str) -> None:
    outlook = end_of(planned(by_size, **{part: {"epochs": 1, "teachers": "competence"}}, search={"epochs": 3, "trials": 6}))
    lessons = [lesson for lesson in outlook.lessons if lesson.stage.value == part]
    assert lessons
    for lesson in lessons:
        task = lesson.taught and lesson.taught.task
        assert isinstance(task, Distill)
        shares = [reference.class_shares for reference in task.teachers]
        assert shares == [(t.result.miou, 0.0, 0.25, 1.0, 0.0) for t in lesson.teachers] if len(shares) > 1 else shares == [()]


def largest(candidates: list[Candidate]) -> Candidate:
    return max(candidates, key=lambda c: (c.total_parameters, c.task))


def all_others(student: Candidate, candidates: list[Candidate]) -> list[Candidate]:
    assert student.task not in {c.task for c in candidates}
    return candidates[::-1]


RULES = {"mine:largest": largest, "mine:all_others": all_others}


def answered(question: Question) -> tuple[TaskKey, ...]:
    candidates = list(question.candidates)
    if question.student is None:
        return (largest(candidates).task,)
    return tuple(c.task for c in all_others(question.student, candidates))


def own(**changes: object) -> Planner:
    """A plan with own rules, whose code nobody needs for planning."""
    usual = experiment()
    parts, dataset = own_parts.take_up(usual)
    with_rules = parts.replace(rules=dict.fromkeys(RULES, "a" * 64))
    return Planner(experiment(**changes), dataset, own=with_rules)


def test_a_users_own_rule_is_asked_and_decides_and_its_answers_make_the_plan_again() -> None:
    changes: Given = {"select": {"rule": "mine:largest"}, "round2": {"epochs": 1, "teachers": "mine:all_others"}}
    results: dict[TaskKey, TaskResult] = {}
    answers: dict[str, tuple[TaskKey, ...]] = {}
    plan = own(**changes)
    asked = 0
    for _ in range(200):
        outlook = plan.outlook(results, {}, answers)
        if outlook.questions:
            assert not outlook.is_finished
            asked += len(outlook.questions)
            answers |= {question.key: answered(question) for question in outlook.questions}
        elif outlook.is_finished:
            break
        else:
            results[outlook.steps[0].key] = by_size(outlook.steps[0])
    assert outlook.is_finished and asked == len(answers) > 4
    searched = [row for row in outlook.rows if row.stage is Stage.SEARCH]
    assert all(row.choice and row.choice.reason == "mine:largest took it" for row in searched)
    baselines = {row.family: row.entrant for row in outlook.rows if row.stage is Stage.BASELINE}
    assert all(row.entrant.result.num_parameters_total >= baselines[row.family].result.num_parameters_total for row in searched)
    again = own(**changes).outlook(results, {}, answers)
    assert again.keys == outlook.keys and again.winner == outlook.winner and again.is_finished
    other = own(**changes)
    other.own = other.own.replace(rules=dict.fromkeys(RULES, "b" * 64))
    assert other.outlook(results, {}, answers).questions, "other code is asked anew"


def test_an_answer_that_is_none_of_the_candidates_is_asked_for_again() -> None:
    chooser = Chooser(Select(rule="mine:largest"), {"mine:largest": NO_DIGEST})
    row = next(row.entrant for row in end_of(planned(by_size)).rows)
    assert chooser.choose([row]) is None and len(chooser.questions) == 1
    told = Chooser(chooser.select, chooser.codes, {chooser.questions[0].key: (TaskKey("0" * 64),)})
    assert told.choose([row]) is None and told.questions == chooser.questions


class TestAsking:
    """Own rules that are run, by the code that they are collected in."""

    CODE = (
        "def largest(candidates):\n    return max(candidates, key=lambda c: c.total_parameters)\n"
        "def none(candidates):\n    return None\n"
        "def another(candidates):\n    import dataclasses\n    return dataclasses.replace(candidates[0], task='0' * 64)\n"
        "def all_of_them(candidates):\n    return candidates\n"
        "def fails(candidates):\n    raise KeyError('no')\n"
        "def others(student, candidates):\n    return candidates[:2]\n"
    )
    MANY = (candidate("a" * 64, 0.5, 1), candidate("b" * 64, 0.6, 2))

    @pytest.fixture
    def ask(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
        (tmp_path / "my_rules.py").write_text(self.CODE, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.chdir(tmp_path)

        def asked(name: str, student: Candidate | None = None) -> tuple[TaskKey, ...]:
            rule = f"my_rules:{name}"
            question = Question(rule, take(rule), self.MANY, student)
            with Journal(tmp_path / "journal.sqlite") as journal:
                answers = choices.ask([question], journal)
                assert choices.noted(journal) == answers
            return answers[question.key]

        return asked

    def test_what_it_says_is_written_down(self, ask: Ask) -> None:
        assert ask("largest") == ("b" * 64,)
        assert ask("others", self.MANY[0]) == ("a" * 64, "b" * 64)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("none", "my_rules:none returned NoneType, not what it was given; expected one of the candidates"),
            ("another", "returned Candidate, not what it was given"),
            ("all_of_them", "returned 2 candidates; expected one of the candidates"),
            ("fails", r"my_rules:fails: it cannot choose \(KeyError: 'no'\)"),
            ("missing", "has no 'missing'"),
        ],
    )
    def test_what_is_no_answer_is_refused_with_what_is_one(self, ask: Ask, name: str, text: str) -> None:
        with pytest.raises(ConfigError, match=text):
            ask(name)


def test_an_earlier_state_of_a_run_keeps_what_its_rules_said(tmp_path: Path) -> None:
    generation = generations.Generation(experiment=experiment(), answers={"a" * 64: ("b" * 64,)})
    assert generations.Generation.model_validate(generation.canonical()) == generation
