"""Hypothesis strategies for valid infos and episodes, as odd as the rules of a dataset allow."""

import datetime

from hypothesis import strategies as st

from mtrouter_rl.cards.pool import ModelCard, Prices, PromptCacheCard
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, Episode, TokenUsage, TracedEpisode, Turn

ODD = (
    "",
    "\x00",
    "a\x00b\x00",
    '"quoted" \\n \\',
    "␛0␛␛",
    "line\nline\r\n\ttab",
    "\u2028\u2029\x85\ufeff",
    "漢字 🙂 e\u0301",
    "\x1f\x7f",
)
texts = st.one_of(
    st.sampled_from(ODD), st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.text("ab", max_size=3)
)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
counts = st.one_of(st.sampled_from([0, 1, 2**53 + 1, 10**15]), st.integers(0, 10**6))
indices = st.one_of(st.sampled_from([0, 2**63 - 1]), st.integers(0, 1000))
prices = st.one_of(st.sampled_from([0.0, 1e-9, 0.1, 3.7]), st.floats(0, 10))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
extras = st.dictionaries(texts, json_values, max_size=3)
propensities = st.one_of(st.sampled_from([1.0, 5e-324, 0.1]), st.floats(0, 1, exclude_min=True))
latencies = st.one_of(st.sampled_from([0.0, 5e-324, 1.7e308]), st.floats(0, 100))


@st.composite
def models(draw):
    """One to three models with names of their own."""
    return tuple(
        ModelCard(
            name=name,
            prices=Prices(
                input=draw(prices),
                cached_input=draw(prices),
                cache_write=draw(st.none() | prices),
                output=draw(prices),
            ),
            context_tokens=draw(st.integers(1, 10**7)),
            max_output_tokens=draw(st.integers(1, 10**6)),
            knowledge_cutoff=draw(st.dates(datetime.date(2020, 1, 1), datetime.date(2030, 1, 1))),
        )
        for name in draw(st.lists(names, min_size=1, max_size=3, unique=True))
    )


@st.composite
def infos(draw):
    """Infos of collected and imported datasets."""
    is_imported = draw(st.booleans())
    return DatasetInfo(
        dataset_id=draw(st.sampled_from(["toy-v1", "A.b_c-d-v12", "0-v3"])),
        env=draw(names),
        pool_name=draw(names),
        models=draw(models()),
        prompt_cache=draw(st.none() | st.builds(PromptCacheCard, ttl_s=st.floats(1e-3, 1e9), min_tokens=counts)),
        behavior_policy=draw(names),
        split=draw(st.sampled_from(["train", "validation", "test", "ood"])),
        seed=draw(indices),
        n_episodes_planned=draw(st.integers(1, 10**9)),
        max_turns=draw(st.integers(1, 10**9)),
        budget_usd=draw(st.sampled_from([1e-300, 0.1, UNLIMITED_BUDGET_USD])),
        is_simulated=draw(st.booleans()),
        package_version="0.1.0",
        created_by=draw(extras),
        origin="imported" if is_imported else "collected",
        propensities=draw(st.sampled_from(["unknown", "estimated"])) if is_imported else "exact",
        assumptions=tuple(draw(st.lists(texts, max_size=2))),
    )


def _parents(index):
    """Earlier turns, or nothing said."""
    earlier = st.lists(st.integers(0, max(index - 1, 0)), max_size=index, unique=True)
    return st.none() | earlier.map(lambda found: tuple(sorted(found)))


@st.composite
def _turns(draw, info, *, n_turns, gains):
    turns = []
    has_parents = draw(st.booleans())
    for index in range(n_turns):
        model, served = draw(st.sampled_from(info.models)), draw(st.sampled_from(info.models))
        usage = TokenUsage(n_fresh=draw(counts), n_cached=draw(counts), n_written=draw(counts), n_output=draw(counts))
        is_unknown = info.propensities == "unknown" and draw(st.booleans())
        turns.append(
            Turn(
                model=model.name,
                served_model=served.name,
                action_text=draw(texts),
                observation_text=draw(texts),
                usage=usage,
                cost_usd=served.prices.cost_usd(usage),
                utility_gain=gains[index],
                propensity=None if is_unknown else draw(propensities),
                action_mask=tuple(other == model or draw(st.booleans()) for other in info.models),
                warm=tuple(draw(st.booleans()) for _ in info.models),
                error=draw(texts),
                latency_s=None if info.origin == "imported" and draw(st.booleans()) else draw(latencies),
                terminated=False,
                truncated=False,
                parents=draw(_parents(index)) if has_parents else None,
            )
        )
    return turns


@st.composite
def _episode(draw, info, *, episode_id):
    is_failed = draw(st.booleans())
    n_turns = draw(st.integers(0, 6))
    gain = st.one_of(st.sampled_from([0.0, -0.0, 5e-324, 1 / 7]), st.floats(-1 / 6, 1 / 6))
    turns = draw(_turns(info, n_turns=n_turns, gains=[draw(gain) for _ in range(n_turns)]))
    endings = [(True, False), (False, True), (True, True), *([(False, False)] if is_failed else [])]
    if turns:
        terminated, truncated = draw(st.sampled_from(endings))
        turns[-1] = Turn(**{**vars(turns[-1]), "terminated": terminated, "truncated": truncated})
    cost_usd = sum(turn.cost_usd for turn in turns)
    return Episode(
        episode_id=episode_id,
        task=draw(texts),
        variation=draw(indices),
        seed=draw(indices),
        split=info.split,
        task_text=draw(texts),
        first_observation=draw(texts),
        behavior_policy=draw(names),
        budget_usd=max(cost_usd, draw(st.sampled_from([5e-324, 1.0, 1.7e308]))),
        max_turns=max(1, n_turns) + draw(st.sampled_from([0, 1, 10**9])),
        turns=tuple(turns),
        status="failed" if is_failed else "completed",
        status_detail=draw(names) if is_failed else draw(texts),
        usage_source=draw(st.sampled_from(["logged", "reconstructed"])),
        extra=draw(extras),
    )


@st.composite
def datasets(draw, *, min_turns=0):
    """An info with one to four episodes that keep every rule, some of them with hidden information.

    Args:
        draw: Given by Hypothesis.
        min_turns: Turns that all episodes have together at least.
    """
    info = draw(infos())
    ids = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    traced = []
    for episode_id in ids:
        episode = draw(_episode(info, episode_id=episode_id))
        hidden = tuple(draw(extras) for _ in episode.turns) if draw(st.booleans()) else ()
        traced.append(TracedEpisode(episode=episode, hidden=hidden))
    if sum(len(trace.episode.turns) for trace in traced) < min_turns:
        turn = draw(_turns(info, n_turns=1, gains=[0.5]))[0]
        last = Turn(**{**vars(turn), "terminated": True})
        bare = traced[0].episode
        grown = Episode(**{**vars(bare), "turns": (last,), "budget_usd": max(bare.budget_usd, last.cost_usd)})
        traced[0] = TracedEpisode(episode=grown)
    return info, tuple(traced)
