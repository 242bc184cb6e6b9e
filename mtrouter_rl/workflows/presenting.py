"""Drawing everything that people look at from the results of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mtrouter_rl.agents.resolve import RouterRef
from mtrouter_rl.agents.saving import Provenance
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.evaluation.behavior_file import BEHAVIOR_FILE, Behavior
from mtrouter_rl.evaluation.hidden_reference import is_reference
from mtrouter_rl.evaluation.query_router import HistoryEmbedder, ModelEmbedder, history_states, revisit, value_meaning
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.evaluation.shown_episodes import TRANSCRIPTS_FILE, transcripts_of
from mtrouter_rl.ope.record import OPE_FILE, load_report
from mtrouter_rl.protocols import Router
from mtrouter_rl.records import TracedEpisode
from mtrouter_rl.workflows.run_folder import OPE_FOLDER, RESULTS_FILE, TENSORBOARD_FOLDER, episodes_of_run

if TYPE_CHECKING:
    from mtrouter_rl.reporting.tensorboard.sink import RouterDetails


def present(folder: Path, config: EnvConfig, *, routers: Sequence[str] = (), cache: Path | None = None) -> Path:
    """Draw everything that people look at from a run's results: plots, TensorBoard and the report.

    TensorBoard also shows `behavior.json` of the folder, and the estimates in its `ope/ope.json`, if they are there.

    Args:
        folder: Folder of the run.
        config: Environment of the run.
        routers: Policies that are asked again: for the action values in the transcripts, and for what TensorBoard shows of
            learned routers.
        cache: Folder of the embedding cache.

    Returns:
        The report's HTML page.
    """
    from mtrouter_rl.reporting.plots import save_plots
    from mtrouter_rl.reporting.report import write_report
    from mtrouter_rl.reporting.tensorboard.sink import write_evaluation

    results = Results.load(folder / RESULTS_FILE)
    asked = [RouterRef.of(text, cache)(config) for text in routers if not is_reference(text)]
    by_name = {router.name: router for router in asked}
    traced: dict[str, dict[str, list[TracedEpisode]]] = {
        split: revisit(policies, by_name, config.pool) for split, policies in episodes_of_run(folder).items()
    }
    save_plots(results, traced, folder / "plots")
    transcripts = transcripts_of(_in_order(traced, results), results.model_names, is_simulated=results.is_simulated)
    transcripts.write(folder / TRANSCRIPTS_FILE)
    behavior, ope = folder / BEHAVIOR_FILE, folder / OPE_FOLDER / OPE_FILE
    write_evaluation(
        folder / TENSORBOARD_FOLDER,
        results=results,
        traced=traced,
        pool=config.pool,
        routers={name: _details(router, traced, config) for name, router in by_name.items()},
        behavior=Behavior.load(behavior) if behavior.is_file() else None,
        ope=load_report(ope) if ope.is_file() else None,
    )
    return write_report(folder, draws_plots=False)


def _in_order(
    traced: Mapping[str, Mapping[str, Sequence[TracedEpisode]]], results: Results
) -> dict[str, dict[str, Sequence[TracedEpisode]]]:
    """Splits and policies as a reader wants them: test before others, learned routers before what they are compared with."""

    def rank(policy: str) -> tuple[bool, bool]:
        return policy not in results.roles.learned, policy in results.roles.single_models

    return {
        split: {policy: traced[split][policy] for policy in sorted(traced[split], key=rank)}
        for split in sorted(traced, key=lambda split: split != "test")
    }


def _details(
    router: Router, traced: Mapping[str, Mapping[str, Sequence[TracedEpisode]]], config: EnvConfig
) -> "RouterDetails":
    """What TensorBoard shows of a router beside its results."""
    from mtrouter_rl.reporting.tensorboard.sink import RouterDetails

    own = {split: policies[router.name] for split, policies in traced.items() if router.name in policies}
    rng = np.random.default_rng(0)
    return RouterDetails(
        hyper_parameters=_hyper_parameters(router),
        model_embeddings=router.model_embeddings() if isinstance(router, ModelEmbedder) else None,
        history_states=history_states(router, own, config.pool, rng=rng)
        if isinstance(router, HistoryEmbedder)
        else None,
        value_meaning=value_meaning(router, env=config.card.name),
    )


def _hyper_parameters(router: Router) -> dict[str, str | int | float]:
    """Hyper-parameters of a trained router, for the HParams page; lists become text."""
    provenance = getattr(router, "provenance", None)
    if not isinstance(provenance, Provenance):
        return {}
    parameters = provenance.card.parameters | {"seed": provenance.seed, "algorithm": provenance.card.algorithm}
    return {name: value if isinstance(value, str | int | float) else str(value) for name, value in parameters.items()}
