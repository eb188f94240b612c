"""Secret detection: patterns of API keys, tokens, passwords and webhooks in text.

Formats with a fixed prefix are matched first. Then follow random-looking values that are assigned to a
suspicious name (key, token, secret, ...) in Python, YAML, JSON, shell or notebook syntax.
"""

from __future__ import annotations

import math
import re
from collections import Counter

# The separator between a name and its value: quotes, escaped quotes of a notebook, an equals sign, a bracket.
TO = rb"\W{1,8}"
FORMATS = {
    "a Kaggle token": rb"\bKGAT_[0-9a-f]{32}",
    "a Kaggle key": rb"(?:KAGGLE_(?:KEY|API_TOKEN)" + TO + rb"|\"key\"\s*:\s*\")[0-9a-zA-Z_]{32,}",
    "a wandb key": (
        rb"WANDB_API_KEY" + TO + rb"[0-9a-zA-Z_]{40,}|\bwandb_v\d_[0-9a-zA-Z_]{20,}"
        rb"|wandb\.login\([^)]{0,200}?\bkey" + TO + rb"[0-9a-zA-Z_-]{20,}"
        rb"|wandb[^\n]{0,80}['\"][0-9a-f]{40}['\"\\]|wandb login(?: --\S+){0,3} [0-9a-zA-Z_]{40,}"
    ),
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}",
    "a GitHub token": rb"\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_[A-Za-z0-9_]{40,}",
    "a GitLab token": rb"\bgl(?:pat|dt|ft|soat|rt)-[A-Za-z0-9_-]{20,}",
    "an AWS key": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|(?i:aws_?secret_?access_?key)"
    + TO
    + rb"[A-Za-z0-9/+]{40}",
    "an Azure key": rb"AccountKey=[A-Za-z0-9+/=]{60,}",
    "a Google key": rb"\bAIza[0-9A-Za-z_-]{35}\b|\bya29\.[0-9A-Za-z_-]{30,}",
    "a Slack token": rb"\bxox[abeoprs]-[0-9A-Za-z-]{20,}",
    "a Telegram token": rb"\b\d{8,10}:[0-9A-Za-z_-]{35}\b",
    "a Discord token": rb"\b[MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,}",
    "a payment key": rb"\b[rs]k_live_[0-9A-Za-z]{20,}",
    "a mail key": rb"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
    "a package registry's token": rb"\bnpm_[A-Za-z0-9]{36}\b|\bpypi-AgE[A-Za-z0-9_-]{50,}",
    "an API key": rb"\bsk-[A-Za-z0-9_-]{32,}",
    "a signed token": rb"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.|\beyJhcGlf[A-Za-z0-9+/=_-]{40,}",
    "a private key": rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----|PuTTY-User-Key-File-\d",
    "a webhook": (
        rb"hooks\.slack\.com/(?:services|workflows|triggers)/\w+/\w+|hooks\.zapier\.com/hooks/catch/\d+/\w+"
        rb"|maker\.ifttt\.com/trigger/[^\s'\"]{1,60}/key/[\w-]{10,}"
        rb"|discord(?:app)?\.com/api/(?:v\d+/)?webhooks/\d+/[\w-]{10,}"
        rb"|webhook\.office\.com/webhookb2/[\w-]{10,}|chat\.googleapis\.com/v1/spaces/[^\s'\"]{10,}key="
        rb"|api\.telegram\.org/bot\d+:[\w-]{10,}|/open-apis/bot/v\d/hook/[\w-]{10,}"
        rb"|https?://[^\s'\"]{0,200}?(?:web)?hooks?[^\s'\"]{0,100}?[/=](?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{24,}"
    ),
    "a password in an address": rb"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@'\"{}<>$]{1,64}:[^\s/:@'\"{}<>$]{4,}@[\w.-]",
    "a password": (
        rb"\bmachine\s+\S+\s+login\s+\S+\s+password\s+\S{4,}"
        rb"|(?im:^[\s\w-]{0,60}passw(?:or)?d\s{0,4}:\s{1,4}(?=\S{0,60}\d)[^\s{}<>$'\"()]{6,64}\s*$)"
    ),
}

# A name that ends in one of these words suggests a secret; whether the value looks random decides.
_NAMED = re.compile(
    rb"(?i)(?:key|token|secret|passw(?:or)?d|passphrase|credentials?|authorization|bearer|\bbasic)"
    rb"[\\'\"\])]{0,4}\s{0,4}(?:=>|[:=,]|\s)\s{0,4}(?:bearer\s|basic\s)?[\\'\"]{0,3}([A-Za-z0-9+/_=-]{16,200})"
    rb"(?![\w.(\[])"
)
QUOTED = re.compile(
    rb"(?i)(?:passw(?:or)?d|passphrase)[\\'\"\])]{0,4}\s{0,4}[:=]\s{0,4}(\\?['\"])([^\s'\"\\{}<>$]{6,64})\1"
)
ENTROPY = 3.0  # bits per character: 32 random hexadecimal digits have about 3.6, words and names have less


def find_secret(content: bytes) -> tuple[str, int] | None:
    """The kind of the first secret in a text and its line number; None if there is none."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16, as a Windows editor saves it
        content = content.replace(b"\0", b"")
    for what, pattern in FORMATS.items():
        if found := re.search(pattern, content):
            return what, _line(content, found.start())
    if b"wandb.login(" in content and (found := re.search(rb"['\"][0-9a-f]{40}['\"\\]", content)):
        return "a wandb key", _line(content, found.start())
    for found in _NAMED.finditer(content):
        if looks_random(found[1].decode("ascii")):
            return "what looks like a key or a token", _line(content, found.start())
    if found := QUOTED.search(content):
        return "what looks like a password", _line(content, found.start())
    return None


def looks_random(value: str) -> bool:
    """Whether a value looks randomly generated: it mixes letters and digits and has a high entropy."""
    parts = [part for part in re.split(r"[_/=-]+", value) if len(part) >= 12]  # not joined short words
    if not any(sum(map(str.isalpha, part)) >= 3 <= sum(map(str.isdigit, part)) for part in parts):
        return False
    counts = Counter(value)
    bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    return bits >= ENTROPY


def _line(content: bytes, place: int) -> int:
    return content.count(b"\n", 0, place) + 1
