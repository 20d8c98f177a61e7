"""SQuAD's comparison of short answers in words, as HotpotQA's script has it too: exact match and F1."""

import re
import string
from collections import Counter


def exact_match(reference: str, answer: str) -> bool:
    """The same words, but for case, punctuation, articles and white space."""
    return bool(answer.strip()) and normalize(reference) == normalize(answer)


def f1(reference: str, answer: str) -> float:
    """Harmonic mean of precision and recall of the answer's words. As HotpotQA has it, "yes" and "no" match only
    themselves."""
    expected, given = normalize(reference).split(), normalize(answer).split()
    if expected != given and any(words in (["yes"], ["no"], ["noanswer"]) for words in (expected, given)):
        return 0.0
    common = (Counter(expected) & Counter(given)).total()
    return 2 * common / (len(expected) + len(given)) if common else 0.0


def normalize(text: str) -> str:
    """SQuAD's normal form: lower case, no ASCII punctuation, no articles, single blanks.

    A text that this would empty ("The The", "!!!") only becomes lower case, so that it is not equal to every other
    such text.
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    words = re.sub(r"\b(a|an|the)\b", " ", bare).split()
    return " ".join(words) or " ".join(bare.split()) or " ".join(text.lower().split())


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
