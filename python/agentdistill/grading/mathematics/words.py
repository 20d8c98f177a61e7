"""Recognize answers in words, which are compared as words and not as mathematics, and letters of choices."""

import re

TEXT_COMMAND = r"\\(?:text|textnormal|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"
TEXT = re.compile(TEXT_COMMAND)
_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{3,}+(?!\()")
GREEK = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "iota", "kappa"),
    *("lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "varphi", "chi", "psi", "omega", "ell"),
    *("Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega"),
)
_NAMES = re.compile(
    r"(?:Interval|Union|Reals|Integers|EmptySet|True|False|arc|"
    r"sqrt|a?(?:sin|cos|tan|cot|sec|csc)h?|cis|max|min|log|exp|lcm|gcd|mod|comb|GoldenRatio|infinity|inf|infty|pi|pmatrix|cdot|frac)+|"
    + "|".join(GREEK),
    re.IGNORECASE,
)


def is_prose(text: str) -> bool:
    """Whether ``text`` is "no" or contains words other than mathematical names (functions, Greek letters, ...)."""
    return text.strip(" .").lower() == "no" or any(not _NAMES.fullmatch(word) for word in _WORD.findall(text))


_CHANGED_BEFORE = re.compile(
    r"(?:\b(?:not|no|than|least|most|over|under|above|below|except(?: for)?|excluding|but|from|up to|to the|within|"
    r"almost|nearly|exceeds?|close to|plus|minus|times|(?:divi\w+|multipl\w+)\s+by|(?:divisors?|factors?|digits?)\s+of|"
    r"(?:end|start|begin)\w*\s+(?:in|with|at|by)|negative|twice|thrice|double|triple|half|quarter|third|root|square|"
    r"cube|reciprocal|inverse|opposite|multiple|power|"
    r"steps?|iterations?|attempts?|question|problem|equation|exercise|version|code|line|page|chapter|figure|table|"
    r"(?:let|for|at|with)\s+\$?[a-z]\$?\s*(?:=|be|is)|January|February|March|April|May|June|July|August|September|October|November|December)|n't)"
    r"(?:\s+(?:be|of|the))*[\s:$(\\]*$",
    re.IGNORECASE,
)
_CHANGED_AFTER = re.compile(
    r"(?:st|nd|rd|th)\b|[\s$)\\]*(?:(?:dozen|score|hundred|thousand|million|billion|trillion|hal(?:f|ves)|thirds?|"
    r"fourths?|(?:fif|six|seven|eigh|nin|ten|hundred|thousand|million)ths?|squared|cubed|factorial|minus|plus|over|"
    r"divided|below|under|mod(?:ulo)?|choose|less\s+\w+|times\s+(?!as\b)\w+)\b|(?:less|more|fewer|greater)\s+than\b|"
    r"(?:raised\s+)?to\s+the\b|raised\b|and\s+(?:up|above|over|below|counting)\b|at\s+(?:most|least)\b)",
    re.IGNORECASE,
)
_DOUBTED = re.compile(
    r"\b(?:not|never|cannot|either|neither|or|between|maybe|perhaps|probably|possibly|unsure|unable|unknown|insufficient|assum\w+|(?:might|could|may)\s+be|"
    r"wrong|incorrect|none|true|false|doubt\w*|\w*error|\w*exception|traceback|timeout|timed\s+out|fail(?:s|ed)?|if|unless|when|suppose|def|lambda|one\s+of|"
    r"(?:less|more|fewer|greater|larger|smaller|higher|lower)\s+than|and\s+an?\s+\w+|"
    r"and\s+\w+\s+(?:hal(?:f|ves)|thirds?|quarters?|\w+ths?))\b|n't\b|://",
    re.IGNORECASE,
)
"""Words anywhere in a sentence that make it uncertain whether its number is the answer."""


def changes(before: str, after: str) -> bool:
    """Whether the words around a number make another value of it, or none: "at least 5", "twice 5", "5 squared"."""
    return bool(_CHANGED_BEFORE.search(before) or _CHANGED_AFTER.match(after) or _DOUBTED.search(f"{before} , {after}"))


_LAST_WORD = re.compile(r"([A-Za-z]{2,})[\s$(\\#*_`\"']*$")
_NO_NAMES = (
    "answer ans final result results total sum value solution number count difference product quotient remainder ratio "
    "mean average median mode minimum maximum min max area perimeter circumference length width height depth radius "
    "diameter distance volume "
    "angle speed velocity time age cost price profit weight mass temperature probability percentage perhaps therefore "
    "thus hence so then now and or the only just exactly precisely about approximately around roughly is are was were "
    "equals gives get gets got have has need needs takes makes leaves found yes correct there these those all both "
    "usd eur gbp jpy inr cny rmb cad aud chf rs"
)
"""Words that may begin a sentence, or are written in capitals, without being a name."""


def ends_in_name(before: str) -> bool:
    """Whether the word before a number is a name that the number is part of: "COVID 5", "on Apollo 11"."""
    word = _LAST_WORD.search(before)
    return bool(word and not word[1].islower() and word[1].lower() not in _NO_NAMES.split())


_CHOICE = re.compile(r"\(?([A-Z])\)?")
_CHOSEN = re.compile(
    r"(?:(?i:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer))\s*(?::|is\b)?\s*)?\(?([A-Z])\)?"
    r"|(?:\((?=[A-Z]\))|(?=[A-Z][.):]))([A-Z])[.):]+\s*\S.*"
)
_NO_TEXT = re.compile(r"\(?[A-Z][.):]+\s*(?:(?:and|or|not|is|are)\b|[-+*/^=_,]|[A-Z]\W*$)")
"""A letter that is not followed by the text of its choice."""


def chosen(reference: str, answer: str) -> bool:
    """Whether the reference is the letter of a choice and the answer selects it: ``(C)``, ``Option C``, ``(C) 42``."""
    right, said = _CHOICE.fullmatch(reference), _CHOSEN.fullmatch(answer)
    if not right or not said or len(re.findall(r"\([A-Z]\)", answer)) > 1:
        return False
    if said[2] and _NO_TEXT.match(answer):
        return False
    return right[1] == (said[1] or said[2])
