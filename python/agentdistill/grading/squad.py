"""SQuAD's metrics for short textual answers, exact match and F1, as in HotpotQA's evaluation script."""

import re
import string
import unicodedata
from collections import Counter


def exact_match(reference: str, answer: str) -> bool:
    """Whether the texts are equal except for case, punctuation, articles and white space."""
    return bool(answer.strip()) and normalize(reference) == normalize(answer)


def f1(reference: str, answer: str) -> float:
    """Harmonic mean of the precision and recall of the answer's words. As in HotpotQA, "yes", "no" and "noanswer" match
    only themselves."""
    expected, given = normalize(reference).split(), normalize(answer).split()
    if expected != given and any(words in (["yes"], ["no"], ["noanswer"]) for words in (expected, given)):
        return 0.0
    common = (Counter(expected) & Counter(given)).total()
    return 2 * common / (len(expected) + len(given)) if common else 0.0


def normalize(text: str) -> str:
    """SQuAD's normalization: lower case, no ASCII punctuation, no articles, single spaces.

    Text that would become empty keeps its articles ("The The"), or else its punctuation ("!!!"), so that such texts are
    not all equal. Unlike in SQuAD's script, a character is the same however Unicode encodes it (NFC), and curly quotes
    are the straight ones.
    """
    text = unicodedata.normalize("NFC", text.translate(_STRAIGHT))
    bare = text.lower().translate(_NO_PUNCTUATION)
    words = re.sub(r"\b(a|an|the)\b", " ", bare).split()
    return " ".join(words) or " ".join(bare.split()) or " ".join(text.lower().split())


_STRAIGHT = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
