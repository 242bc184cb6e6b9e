"""Humanity's Last Exam behind the text-task protocol: a question, tools, and one answer that is judged right or wrong.

A task is a category and a variation is a question of it. The synthetic set adds an expert, which simulated models imitate.
"""

from typing import Protocol

from mtrouter_rl.cards import EnvCard, parse_settings
from mtrouter_rl.envs.hle.actions import Action, NoAction, Tool, parse_action
from mtrouter_rl.envs.hle.judges import Judge, RuleJudge
from mtrouter_rl.envs.hle.llm_judge import LlmJudge
from mtrouter_rl.envs.hle.plans import Progress
from mtrouter_rl.envs.hle.questions import TASK_NAMES, Question, QuestionSet, read_questions
from mtrouter_rl.envs.hle.sandbox import Sandbox
from mtrouter_rl.envs.hle.search import LocalCorpus, SearchBackend
from mtrouter_rl.envs.hle.settings import HleSettings
from mtrouter_rl.envs.hle.synthetic import SyntheticSet
from mtrouter_rl.envs.hle.tools import ToolBox
from mtrouter_rl.errors import CallOrderError, CardError, InvalidConfigError, unknown_name
from mtrouter_rl.protocols import Ending, ExpertPlan, TaskStart, TaskStep

_RIGHT, _WRONG = "Your answer was handed in. It is right.", "Your answer was handed in. It is wrong."


def make_task(card: EnvCard) -> "HleTask":
    """Text task of an environment card of family "hle"; starts nothing.

    Raises:
        CardError: If the card's settings or tasks are not those of the family.
        InvalidConfigError: If the question file is missing, breaks its schema or has changed.
    """
    settings = parse_settings(card, HleSettings)
    judge: Judge = RuleJudge(relative_tolerance=settings.relative_tolerance)
    if settings.judge is not None:
        judge = LlmJudge(settings.judge)
    if settings.synthetic is not None:
        synthetic = _make_synthetic(card, settings)
        tools = _make_tools(settings, LocalCorpus(synthetic.documents()))
        return SyntheticTask(synthetic, tools=tools, offered=settings.tools, judge=judge)
    questions = _read_file(card, settings)
    _count(card, {task: len(chosen) for task, chosen in questions.by_task.items()})
    search = settings.search.make() if settings.search is not None else None
    return HleTask(FileQuestions(questions), tools=_make_tools(settings, search), offered=settings.tools, judge=judge)


def complete_card(card: EnvCard) -> EnvCard:
    """Fill in what the question file says: numbers of variations that the card gives as "all", and the file's fingerprint.

    Raises:
        CardError: If the card's settings or tasks are not those of the family.
        InvalidConfigError: If the question file is missing, breaks its schema or is not the one that the card pins.
    """
    settings = parse_settings(card, HleSettings)
    if settings.synthetic is not None:
        return _count(card, dict.fromkeys(TASK_NAMES, settings.synthetic.n_per_category))
    questions = _read_file(card, settings)
    counted = _count(card, {task: len(chosen) for task, chosen in questions.by_task.items()})
    return counted.model_copy(update={"settings": card.settings | {"questions_sha256": questions.fingerprint}})


def _read_file(card: EnvCard, settings: HleSettings) -> QuestionSet:
    assert settings.questions is not None
    questions = read_questions(settings.questions, images=settings.images)
    pinned = settings.questions_sha256
    if pinned and questions.fingerprint != pinned:
        raise InvalidConfigError(
            f"question file {settings.questions} has SHA-256 {questions.fingerprint}, but card '{card.name}' was made for "
            f"{pinned}: variations are positions in the file, so they would be other questions; restore the file, or remove "
            "questions_sha256 and collect and train anew"
        )
    return questions


def _count(card: EnvCard, n_of: dict[str, int]) -> EnvCard:
    """The card with numbers in place of "all"; refuses tasks and numbers that are not there."""
    updated: dict[str, dict[str, int]] = {}
    for field, tasks in (("train_tasks", card.train_tasks), ("ood_tasks", card.ood_tasks)):
        updated[field] = {}
        for task, wanted in tasks.items():
            if task not in TASK_NAMES:
                raise CardError(f"card '{card.name}', {field}: {unknown_name('category', task, TASK_NAMES)}")
            there = n_of.get(task, 0)
            number = there if wanted == "all" else wanted
            if not 0 < number <= there:
                raise CardError(
                    f"card '{card.name}', {field}: '{task}' is {wanted}, but there are {there} questions of that category; "
                    "give a smaller number or 'all', or leave the category out"
                )
            updated[field][task] = number
    return card.model_copy(update=updated)


def _make_synthetic(card: EnvCard, settings: HleSettings) -> SyntheticSet:
    assert settings.synthetic is not None
    missing = sorted({"search", "browse", "python"} - set(settings.tools))
    if missing:
        raise CardError(
            f"card '{card.name}', settings.tools: the synthetic questions cannot be answered without {', '.join(missing)}; "
            "add the tool(s)"
        )
    _count(card, dict.fromkeys(TASK_NAMES, settings.synthetic.n_per_category))
    return SyntheticSet(n_per_category=settings.synthetic.n_per_category, seed=settings.synthetic.seed)


def _make_tools(settings: HleSettings, search: SearchBackend | None) -> ToolBox:
    hidden = () if settings.questions is None else (settings.questions,)
    level = None if settings.isolation == "auto" else settings.isolation
    return ToolBox(
        search=search,
        sandbox=Sandbox(settings.program, level=level, hidden=hidden),
        n_characters=settings.observation_characters,
        remembers_programs=settings.remembers_programs,
    )


class QuestionSource(Protocol):
    """Where questions come from."""

    def question(self, task: str, variation: int) -> Question:
        """A question. Raises `UnknownNameError` or `InvalidConfigError` if there is none."""

    def heading(self, question: Question) -> str:
        """Line above a question."""


class FileQuestions:
    """Questions of a file."""

    def __init__(self, questions: QuestionSet) -> None:
        """Take the questions."""
        self._by_task = questions.by_task

    def question(self, task: str, variation: int) -> Question:
        """The question at a position of its category, by id."""
        if task not in self._by_task:
            raise unknown_name("task", task, self._by_task)
        _check_variation(task, variation, len(self._by_task[task]))
        return self._by_task[task][variation]

    def heading(self, question: Question) -> str:
        """Its category."""
        return f"Category: {question.category}."


def _check_variation(task: str, variation: int, n_variations: int) -> None:
    if not 0 <= variation < n_variations:
        raise InvalidConfigError(f"task '{task}' has no variation {variation}; it has 0 to {n_variations - 1}")


class HleTask:
    """One question an episode. Score 1 for a right answer, else 0; handing in an answer ends the episode."""

    max_score = 1.0

    def __init__(self, source: QuestionSource, *, tools: ToolBox, offered: tuple[Tool, ...], judge: Judge) -> None:
        """Create the task; use `make_task` to make it from a card."""
        self._source = source
        self._tools = tools
        self._offered = offered
        self._judge = judge
        self._is_running = False

    def reset(self, task: str, variation: int, seed: int) -> TaskStart:
        """Ask a question; the seed changes nothing."""
        self._question = self._source.question(task, variation)
        self._is_running = True
        return TaskStart(
            task_text=f"{self._source.heading(self._question)}\n{self._question.text}",
            observation=f"Tools: {', '.join(self._offered)}.",
        )

    def step(self, action_text: str) -> TaskStep:
        """Call the tool that the text names, or hand in its answer; see `TextTask.step`.

        Raises:
            CallOrderError: If no question is open.
            SimulatorError: If the sandbox, the search backend or the judge is broken.
        """
        self._refuse_if_over()
        action = parse_action(action_text, self._offered)
        if isinstance(action, NoAction):
            return TaskStep(observation=action.message, score=0.0, error=action.error)
        if action.tool == "answer":
            return self._hand_in(action.argument)
        return self._call(action)

    def close(self) -> None:
        """Nothing to release: no program outlives its call."""
        self._is_running = False

    def _call(self, action: Action) -> TaskStep:
        result = self._tools.call(action)
        return TaskStep(
            observation=result.observation, score=0.0, error=result.error, hidden={"tool": action.tool, **result.hidden}
        )

    def _hand_in(self, answer: str) -> TaskStep:
        self._is_running = False  # whatever the judge does, there is no second answer
        verdict = self._judge.judge(self._question, answer)
        ending: Ending = "solved" if verdict.is_right else "failed"
        return TaskStep(
            observation=_RIGHT if verdict.is_right else _WRONG,
            score=1.0 if verdict.is_right else 0.0,
            ending=ending,
            hidden={"tool": "answer", "judged_by": verdict.method, **verdict.hidden},
        )

    def _refuse_if_over(self) -> None:
        if not self._is_running:
            raise CallOrderError("no question is open; call reset() first, and again after an answer was handed in")


class SyntheticTask(HleTask):
    """Synthetic questions, with an expert that knows the way to every answer."""

    def __init__(self, synthetic: SyntheticSet, *, tools: ToolBox, offered: tuple[Tool, ...], judge: Judge) -> None:
        """Create the task; use `make_task` to make it from a card."""
        super().__init__(self, tools=tools, offered=offered, judge=judge)
        self._synthetic = synthetic

    def question(self, task: str, variation: int) -> Question:
        """A synthetic question."""
        if task not in TASK_NAMES:
            raise unknown_name("task", task, TASK_NAMES)
        _check_variation(task, variation, self._synthetic.n_per_category)
        self._made = self._synthetic.get(task, variation)
        self._progress = Progress(steps=self._made.steps, answer=f"answer: {self._made.question.answer}")
        self._elsewhere = self._synthetic.elsewhere(task, variation)
        return self._made.question

    def heading(self, question: Question) -> str:
        """Its category, and that it is synthetic."""
        return f"Synthetic question. Category: {question.category}."

    def expert_action(self) -> str:
        """The next call of the plan that is not done yet, else the answer."""
        self._refuse_if_over()
        return self._progress.next_action()

    def expert_plan(self) -> ExpertPlan:
        """The calls that are still missing, and the answer, which alone brings a score; a wrong one ends the task at 0."""
        self._refuse_if_over()
        actions = self._progress.actions_left()
        return ExpertPlan(actions=actions, gains=(*(0.0 for _ in actions[1:]), self.max_score), fatal_score=0.0)

    def mistakes(self) -> dict[str, tuple[str, ...]]:
        """Plausible wrong actions; see `ExpertTask.mistakes`. A wrong answer is fatal."""
        self._refuse_if_over()
        wander = [text for one in self._elsewhere for text in (f"search: {one.title}", f"browse: {one.id}")]
        return {
            "idle": ("search: how to answer this question", 'python: print("let me think")'),
            "wander": tuple(wander),
            "fatal": tuple(f"answer: {wrong}" for wrong in self._made.wrong_answers),
        }

    def _call(self, action: Action) -> TaskStep:
        step = super()._call(action)
        if not step.error:
            self._progress.record(action.tool, step.observation)
        return step
