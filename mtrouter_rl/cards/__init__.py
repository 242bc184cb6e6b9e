"""Cards, which a user writes in YAML: models and prices, environments, agents, logs; and how variations are split."""

from mtrouter_rl.cards.agent import AgentCard
from mtrouter_rl.cards.dataset import DatasetCard
from mtrouter_rl.cards.env import (
    EXPERT_SOLVES,
    EnvCard,
    HarnessCard,
    LimitsCard,
    RegularExpression,
    RewardCard,
    SkillPattern,
    SplitCard,
    ToolCard,
)
from mtrouter_rl.cards.files import (
    CardKind,
    card_root,
    card_roots,
    check_card_name,
    find_card,
    is_named_by_installed_card,
    list_cards,
    load_agent_card,
    load_dataset_card,
    load_env_card,
    load_pool_card,
    parse_card,
    parse_section,
    parse_settings,
)

__all__ = [
    "EXPERT_SOLVES",
    "AgentCard",
    "CardKind",
    "DatasetCard",
    "EnvCard",
    "HarnessCard",
    "LimitsCard",
    "RegularExpression",
    "RewardCard",
    "SkillPattern",
    "SplitCard",
    "ToolCard",
    "card_root",
    "card_roots",
    "check_card_name",
    "find_card",
    "is_named_by_installed_card",
    "list_cards",
    "load_agent_card",
    "load_dataset_card",
    "load_env_card",
    "load_pool_card",
    "parse_card",
    "parse_section",
    "parse_settings",
]
