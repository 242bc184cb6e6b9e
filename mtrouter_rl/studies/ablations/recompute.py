"""`ablations.json`, worked out again from the episodes that are kept beside it."""

from collections.abc import Callable
from pathlib import Path

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.evaluation.kept_episodes import KeptEpisodes
from mtrouter_rl.evaluation.metrics import metrics_of_records
from mtrouter_rl.evaluation.recompute import FileKind, Renewal, check_reward
from mtrouter_rl.records import JsonValue
from mtrouter_rl.studies.ablations.record import ABLATIONS_FILE, Ablations, compare_variants


def _renew(path: Path, kept: KeptEpisodes) -> Renewal:
    ablations = Ablations.load(path)
    setting = ablations.setting
    check_reward(kept, _reward(path))
    policies = dict.fromkeys(policy for row in ablations.rows for policy in row.trained.policies)
    absent = [policy for policy in policies if not kept.of(policy, setting.split)]
    if absent:
        why = f"the episodes of {', '.join(absent)} are not kept, and all rows are compared with each other"
        return Renewal(was={}, found={}, left_out=(why,), save=_saver(ablations))
    metrics = {
        policy: metrics_of_records(kept.of(policy, setting.split), model_names=kept.model_names, policy=policy)
        for policy in policies
    }
    renewed = compare_variants([row.trained for row in ablations.rows], metrics, setting, seed=setting.seed)
    return Renewal(was=_parts(ablations), found=_parts(renewed), left_out=(), save=_saver(renewed))


def _saver(ablations: Ablations) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        ablations.write(path)

    return save


def _parts(ablations: Ablations) -> dict[str, JsonValue]:
    return {
        f"{row.trained.agent} {row.trained.variant}": row.model_dump(mode="json", by_alias=True, exclude={"trained"})
        for row in ablations.rows
    }


def _reward(path: Path) -> RewardCard:
    setting = Ablations.load(path).setting
    return RewardCard(cost_weight=setting.cost_weight, cost_unit_usd=setting.cost_unit_usd)


ABLATIONS = FileKind(name=ABLATIONS_FILE, fields=frozenset({"setting", "rows"}), reward=_reward, renew=_renew)
