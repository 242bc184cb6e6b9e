"""Takes what looks like a key out of texts that leave the house."""

import re

SCRUBBED = "[scrubbed]"

_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:sk|pk|rk|gsk|hf|xai|ghp|gho|ghs|ghu|glpat|github_pat|xox[abprs])[-_][A-Za-z0-9_-]{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|\bAIza[A-Za-z0-9_-]{30,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"
    r"|(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{16,}"
    r"|(?<=://)[^\s/:@]+:[^\s/@]+(?=@)",
    re.DOTALL,
)
_NAMED = re.compile(
    r"""((?:api[_-]?key|access[_-]?token|auth[_-]?token|secret(?:[_-]?key)?|password|passwd)["']?\s*[:=]\s*["']?)"""
    r"""([^\s"',;&]{8,})""",
    re.IGNORECASE,
)


def scrub_secrets(text: str) -> tuple[str, int]:
    """The text without what looks like a key, a token, a password or a private key, and how many there were.

    Only shapes are known: keys of common vendors, bearer tokens, user and password in addresses, private keys, and what is
    assigned to a name such as `api_key`. A secret of another shape stays.

    Example:
        >>> scrub_secrets("export API_KEY=abcdefgh1234")
        ('export API_KEY=[scrubbed]', 1)
    """
    text, n_shapes = _SHAPES.subn(SCRUBBED, text)
    n_named = sum(match[2] != SCRUBBED for match in _NAMED.finditer(text))
    return _NAMED.sub(rf"\g<1>{SCRUBBED}", text), n_shapes + n_named
