"""`claims.json`, worked out again from the episodes that are kept beside it."""

from collections.abc import Callable
from pathlib import Path

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.evaluation.kept_episodes import KeptEpisodes
from mtrouter_rl.evaluation.recompute import FileKind, Renewal, check_reward
from mtrouter_rl.records import JsonValue
from mtrouter_rl.studies.full.claim_rules import CLAIM_RULES
from mtrouter_rl.studies.full.claims import CLAIMS_FILE, Claim, ClaimRoles, Claims, SplitClaims
from mtrouter_rl.studies.full.frontier_points import POINTS_FILE, FrontierPoints
from mtrouter_rl.studies.full.split_judge import NOT_OF_EPISODES, SplitJudge


def _renew(path: Path, kept: KeptEpisodes) -> Renewal:
    claims = Claims.load(path)
    reward = _reward(path)
    check_reward(kept, reward)
    points = FrontierPoints.load(_points_beside(path))
    was: dict[str, JsonValue] = {}
    found: dict[str, JsonValue] = {}
    left_out: list[str] = []
    splits = []
    for one in claims.splits:
        renewed = _Split(one, kept, points, reward=reward, seed=claims.seed, left_out=left_out)
        splits.append(renewed.renewed())
        was |= renewed.was
        found |= renewed.found
    made = claims.model_copy(update={"splits": tuple(splits)})
    return Renewal(was=was, found=found, left_out=tuple(left_out), save=_saver(made))


class _Split:
    """The claims of one split, again."""

    def __init__(
        self,
        split: SplitClaims,
        kept: KeptEpisodes,
        points: FrontierPoints,
        *,
        reward: RewardCard,
        seed: int,
        left_out: list[str],
    ) -> None:
        self.was: dict[str, JsonValue] = {}
        self.found: dict[str, JsonValue] = {}
        self._split = split
        self._left_out = left_out
        records = {name: kept.of(name, split.split) for name in (*split.roles.names, *points.policies)}
        self._judge = SplitJudge(
            split=split.split, records=records, points=points, roles=split.roles, reward=reward, seed=seed
        )

    def renewed(self) -> SplitClaims:
        """The split with every claim that its episodes tell, worked out again."""
        absent = [name for name, records in self._judge.records.items() if not records]
        quarter = self._split.roles.quarter
        if [name for name in absent if name != quarter]:
            self._leave_out("all claims", f"the episodes of {', '.join(absent)} are not kept")
            return self._split
        if quarter in absent:
            self._judge = self._without_quarter()
        rules = self._rules()
        by_key = {claim.key: claim for claim in map(self._judge.claim, rules)}
        made = tuple(self._again(claim, by_key) for claim in self._split.claims)
        return self._split.model_copy(update={"claims": made, "n_resamples": self._judge.curve.resamples.n_resamples})

    def _without_quarter(self) -> SplitJudge:
        judge = self._judge
        roles: ClaimRoles = judge.roles.model_copy(update={"quarter": None})
        return SplitJudge(
            split=judge.split,
            records=judge.records,
            points=judge.points,
            roles=roles,
            reward=judge.reward,
            seed=judge.seed,
        )

    def _rules(self) -> list[Callable[..., Claim]]:
        return [rule for rule in CLAIM_RULES if rule not in NOT_OF_EPISODES]

    def _again(self, claim: Claim, by_key: dict[str, Claim]) -> Claim:
        new = by_key.get(claim.key)
        if new is None:
            why = "it rests on more than the episodes of this file"
        elif new.verdict == "not measured" and claim.verdict != "not measured":
            why = "the episodes of another part of the study are not kept here"
        else:
            label = f"{claim.key} on {self._split.split}"
            self.was[label] = _values(claim)
            self.found[label] = _values(new)
            return new
        self._leave_out(claim.key, why)
        return claim

    def _leave_out(self, what: str, why: str) -> None:
        self._left_out.append(f"{what} on {self._split.split}: {why}")


def _values(claim: Claim) -> JsonValue:
    return claim.model_dump(mode="json", by_alias=True)


def _saver(claims: Claims) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        claims.write(path)

    return save


def _points_beside(path: Path) -> Path:
    """`frontier_points.json` of a run, or the file that was shipped beside `NAME-claims.json`."""
    before, dash, _ = path.stem.rpartition("-")
    shipped = path.with_name(f"{before}{dash}{POINTS_FILE.replace('_', '-')}")
    return shipped if shipped.is_file() else path.with_name(POINTS_FILE)


def _reward(path: Path) -> RewardCard:
    claims = Claims.load(path)
    return RewardCard(cost_weight=claims.cost_weight, cost_unit_usd=claims.cost_unit_usd)


CLAIMS = FileKind(
    name=CLAIMS_FILE, fields=frozenset({"splits", "cost_unit_usd", "is_simulated"}), reward=_reward, renew=_renew
)
