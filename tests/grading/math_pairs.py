"""Pairs of answers to mathematical questions, generated from values of known type, with their equality.

A value is drawn by its kind, and written in many correct ways (LaTeX, Python, sympy's own printers, Unicode, plain
text) and in slightly wrong ways (a sign, a digit, an end of an interval, an order, a branch). The grader's own grammar
is not used: sympy and Python's fractions decide what is equal. Gold answers of real sets (MATH, GSM8K) are rewritten in
ways that keep their value, and in ways that do not. The file is long because each kind of value has its lists.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import sympy
from sympy import I, Integer, Rational, latex, pi, sqrt, symbols

SEED = 20261130


class Pair(NamedTuple):
    """A reference, an answer, and whether the answer is correct."""

    kind: str
    reference: str
    answer: str
    is_right: bool


class Spelled(NamedTuple):
    """A value: its reference spelling, other spellings, and similar wrong values."""

    reference: str
    right: list[str]
    wrong: list[str]


x, y, a, b, n, k, t = symbols("x y a b n k t")


def pairs(count: int, seed: int = SEED) -> list[Pair]:
    """At least ``count`` pairs, cycling through the kinds of values; the same seed gives the same pairs."""
    chance, found = random.Random(seed), {}
    while len(found) < count:
        for kind, make in KINDS.items():
            value = make(chance)
            for is_right, answers in ((True, value.right), (False, value.wrong)):
                for answer in chance.sample(answers, min(len(answers), 4)):
                    pair = Pair(kind, value.reference, answer, is_right)
                    if answer != value.reference:
                        found.setdefault((pair.reference, pair.answer), pair)
    return list(found.values())


def _digit(chance: random.Random) -> int:
    return chance.randint(2, 9)


def _signed(chance: random.Random, high: int = 40) -> int:
    return chance.choice((-1, 1)) * chance.randint(2, high)


# ---- numbers


def integer(chance: random.Random) -> Spelled:
    value = chance.choice((_signed(chance), _signed(chance, 10**3), _signed(chance, 10**7), _signed(chance, 10**12)))
    text, grouped = str(value), f"{value:,}"
    right = [
        rf"\boxed{{{text}}}", f"${text}$", f"{text}.", f"{text}.0", f"**{text}**", f"x = {text}",
        f"The answer is {text}.", f"The answer is ${text}$.", f"Integer({text})", f"np.int64({text})",
        f"np.float64({text}.0)", f"[{text}]", grouped, grouped.replace(",", "{,}"), grouped.replace(",", r",\!"),
        grouped.replace(",", r"\,"), f"{value:_}", text.replace("-", "\N{MINUS SIGN}"),
        text.replace("-", "\N{EN DASH}"), rf"\text{{{text}}}", rf"\mathbf{{{text}}}", f"{2 * value}/2",
        rf"\frac{{{3 * value}}}{{3}}", f"{value - 1} + 1", f"{value} apples", f"#### {text}",
        "".join(chr(ord(c) + 0xFEE0) for c in text), f"Final answer: {text}", rf"\({text}\)", f"'{text}'",
        f"{text}e0",
    ]  # fmt: skip
    wrong = [
        str(-value), str(value + 1), str(value - 1), str(10 * value), f"{text}x", f"{text}i",
        rf"\sqrt{{{abs(value)}}}", f"{text}^2", f"1/{text}" if value > 0 else f"-1/{-value}", f"{text}.5",
        f"[{text}, {value + 1}]", f"{text} or {value + 1}", f"at least {text}", f"x > {text}", rf"x \ne {text}",
        f"{text} -", f"{value / 10}", f"{text}\N{SUPERSCRIPT TWO}", rf"\pm {abs(value)}", rf"{text}\pi", "None",
        "NaN", f"not {text}", f"{text}, {value + 1}",
    ]  # fmt: skip
    if abs(value) > 20:
        wrong += [
            text[:-1], f"{text[:-1]}.{text[-1]}" if text[-1] != "0" else text + "1", f"{text[:-1]} {text[-1]}",
        ]  # fmt: skip
    return Spelled(chance.choice((text, grouped.replace(",", r",\!"))), right, wrong)


def fraction(chance: random.Random) -> Spelled:
    value = Fraction(_signed(chance, 60), chance.randint(2, 40))
    while value.denominator == 1 or abs(value.numerator) == 1:
        value = Fraction(_signed(chance, 60), chance.randint(2, 40))
    p, q = value.numerator, value.denominator
    sign, size = ("-" if p < 0 else ""), abs(p)
    reference = rf"{sign}\frac{{{size}}}{{{q}}}"
    right = [
        f"{p}/{q}", f"({p})/({q})", f"{p} / {q}", rf"\frac{{{p}}}{{{q}}}", rf"{sign}\dfrac{{{size}}}{{{q}}}",
        rf"{sign}\tfrac{{{size}}}{{{q}}}", rf"{{{p} \over {q}}}", rf"{p} \div {q}", f"Fraction({p}, {q})",
        f"Rational({p}, {q})", repr(p / q), f"np.float64({p / q!r})", f"x = {p}/{q}",
        rf"\boxed{{\frac{{{p}}}{{{q}}}}}", f"{2 * p}/{2 * q}", f"{p}\N{FRACTION SLASH}{q}", f"The answer is {p}/{q}.",
        rf"\left(\frac{{{p}}}{{{q}}}\right)", f"{p}*1/{q}", rf"\frac{{{-p}}}{{{-q}}}", f"{p}\N{DIVISION SIGN}{q}",
    ]  # fmt: skip
    if size < 10 and q < 10:
        right.append(rf"{sign}\frac{size}{q}")
    if size > q:
        whole, rest = divmod(size, q)
        right += [rf"{sign}{whole}\frac{{{rest}}}{{{q}}}", f"{sign}{whole} {rest}/{q}"]
    wrong = [
        f"{q}/{p}" if p > 0 else f"-{q}/{size}", f"{-p}/{q}", f"{p + 1}/{q}", f"{p}/{q + 1}", str(p), f"{p}{q}",
        f"{p} {q}", f"{p}/{q}x", rf"\frac{{{p}}}{{{q}x}}", f"{p}, {q}", f"({p}, {q})", f"{p}^{q}", f"{p}*{q}",
        f"{p}-{q}", f"{p}/{q}i", rf"\sqrt{{\frac{{{size}}}{{{q}}}}}", f"{p / q + 0.001!r}", repr(10 * p / q),
        f"{p}/{q} or {p + 1}/{q}",
    ]  # fmt: skip
    if Fraction(f"{p / q:.3f}") != value:
        wrong.append(f"{p / q:.3f}")
    return Spelled(reference, right, wrong)


def decimal(chance: random.Random) -> Spelled:
    digits = chance.randint(1, 4)
    value = chance.randint(11, 99999)
    value += value % 10 == 0
    text = f"{value / 10**digits:.{digits}f}"
    f = Fraction(value, 10**digits)
    right = [
        f"{text}0", f"${text}$", rf"\boxed{{{text}}}", f"{text}000", f"np.float64({text})", f"Decimal('{text}')",
        f"{value}/{10**digits}", rf"\frac{{{value}}}{{{10**digits}}}", f"{value}e-{digits}", f"x = {text}",
        rf"{value} \times 10^{{-{digits}}}", rf"{value} \cdot 10^{{-{digits}}}", f"{value}*10**(-{digits})",
        f"{value}\N{MULTIPLICATION SIGN}10\N{SUPERSCRIPT MINUS}{'⁰¹²³⁴'[digits]}", f"+{text}", rf"\approx {text}",
        f"Fraction({f.numerator}, {f.denominator})", f"{float(text) + 1e-13!r}", f"{text} cm", rf"{text}\text{{ cm}}",
    ]  # fmt: skip
    right += [text[1:]] if text.startswith("0.") else []
    wrong = [
        f"-{text}", f"{text}1", f"{text[:-1]}{(int(text[-1]) + 1) % 10}", str(value) if digits else "0",
        f"{value}e-{digits + 1}", rf"{value} \times 10^{{{digits}}}", text.replace(".", ", "), text.replace(".", " "),
        f"1/{text}", f"{text}^2", f"{text} + {text}", f"{text}x", f"{value / 10 ** (digits - 1)!r}", f"> {text}",
    ]  # fmt: skip
    return Spelled(text, right, wrong)


def scientific(chance: random.Random) -> Spelled:
    size, power = chance.randint(11, 99), chance.choice((-9, -6, -4, 5, 8, 12, -20, 23))
    head = f"{size / 10:.1f}"
    raised = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    right = [
        f"{head}e{power}", f"{head}E{power:+d}", f"{head}*10^{power}", f"{head}*10**{power}",
        rf"{head} \cdot 10^{{{power}}}", f"{head} \N{MULTIPLICATION SIGN} 10{raised}", f"{head} x 10^{power}",
        f"{size}e{power - 1}", rf"{size} \times 10^{{{power - 1}}}", repr(float(f"{head}e{power}")),
    ]  # fmt: skip
    wrong = [
        f"{head}e{power + 1}", f"{head}e{-power}", f"-{head}e{power}", f"{size + 1}e{power - 1}", head,
        f"{head}*10*{power}", rf"{head} \times 10^{{{power - 1}}}", f"10^{power}", "0",
    ]  # fmt: skip
    return Spelled(rf"{head} \times 10^{{{power}}}", right, wrong)


def percent(chance: random.Random) -> Spelled:
    value = chance.randint(11, 299)
    right = [
        f"{value}%", f"{value}", f"{value} percent", rf"{value}\,\%", f"{value / 100!r}", f"{value}.0%",
        f"${value}\\%$",
    ]  # fmt: skip
    right += [f"Fraction({value}, 100)", f"{value}/100", rf"\frac{{{value}}}{{100}}", f"{value}\uff05"]
    wrong = [
        f"{value + 1}%", f"-{value}%", f"{value * 10}%", f"{value / 10!r}%", f"{value / 1000!r}", f"{value}/10",
        "100%",
    ]  # fmt: skip
    wrong += [f"{value * 100}", f"{value}.5%", f"{value}%x"]
    return Spelled(rf"{value}\%", right, [w for w in wrong if w != "100%" or value != 100])


def money(chance: random.Random) -> Spelled:
    dollars, cents = chance.randint(2, 9999), chance.randint(1, 99)
    text = f"{dollars}.{cents:02d}"
    right = [
        f"${text}", text, rf"\${text}", f"{text} dollars", f"${dollars:,}.{cents:02d}", f"{text} USD", f"{text}$",
    ]  # fmt: skip
    right += [rf"{text}\text{{ dollars}}", f"{dollars * 100 + cents} cents", f"It costs ${text}."]
    wrong = [
        f"${dollars}", f"${dollars}.{(cents + 1) % 100:02d}", f"${dollars + 1}.{cents:02d}", f"-${text}",
        f"{text} cents",
    ]  # fmt: skip
    wrong += [
        f"{dollars * 100 + cents}", f"\N{EURO SIGN}{text}", f"${dollars}{cents:02d}", f"${text} or ${dollars}",
    ]  # fmt: skip
    return Spelled(rf"\${text}", right, wrong)


def quantity(chance: random.Random) -> Spelled:
    value = chance.randint(2, 60)
    plural, short, factor, small = chance.choice(
        (
            ("meters", "m", 100, "cm"),
            ("kilograms", "kg", 1000, "g"),
            ("hours", "h", 60, "min"),
            ("feet", "ft", 12, "in"),
        )
    )
    right = [
        str(value), f"{value} {plural}", f"{value} {short}", rf"{value}\text{{ {short}}}",
        rf"{value}\ \text{{{plural}}}",
    ]  # fmt: skip
    right += [
        f"{value * factor} {small}", rf"{value * factor}\text{{ {small}}}", f"${value}$ {plural}",
        rf"{value}~\mathrm{{{short}}}",
    ]  # fmt: skip
    wrong = [
        f"{value} {small}", f"{value + 1} {plural}", f"{value * factor} {short}", f"-{value} {short}",
        f"{value} {short}^2",
    ]  # fmt: skip
    wrong += [
        rf"{value}\text{{ {small}}}", f"{value * 10} {small}", f"{value}{'xyz'[value % 3]}",
        rf"{value}\text{{ {short}}}^3",
    ]  # fmt: skip
    return Spelled(rf"{value}\text{{ {plural}}}", right, wrong)


def based(chance: random.Random) -> Spelled:
    base = chance.randint(3, 9)
    digits = "".join(str(chance.randint(1, base - 1)) for _ in range(4))
    right = [
        digits, f"{digits}_{{{base}}}", f"{digits} in base {base}", f"${digits}_{base}$",
        rf"\text{{{digits}}}_{base}",
    ]  # fmt: skip
    right += [f"{digits}" + "₀₁₂₃₄₅₆₇₈₉"[base]]
    other = digits[:-1] + str(int(digits[-1]) % (base - 1) + 1) if base > 3 else "1" + digits
    wrong = [
        f"{digits}_{base + 1}", f"{other}_{base}", other, f"-{digits}_{base}",
        digits[::-1] if digits[::-1] != digits else other,
    ]  # fmt: skip
    return Spelled(f"{digits}_{base}", right, wrong)


def recurring(chance: random.Random) -> Spelled:
    block, fixed = str(chance.randint(1, 98)), chance.choice(("", str(chance.randint(1, 9))))
    if block in "99":
        block = "7"
    value = Fraction(int(fixed or 0), 10 ** len(fixed)) + Fraction(
        int(block), (10 ** len(block) - 1) * 10 ** len(fixed)
    )
    right = [f"{value.numerator}/{value.denominator}", rf"\frac{{{value.numerator}}}{{{value.denominator}}}"]
    right += [
        f"0.{fixed}" + block * 4 + "...", rf"0.{fixed}\bar{{{block}}}",
        f"Fraction({value.numerator}, {value.denominator})",
    ]  # fmt: skip
    right += [rf"0.{fixed}{block}\overline{{{block}}}", repr(float(value))]
    wrong = [
        f"0.{fixed}{block}", rf"0.{block}\overline{{{fixed or 8}}}", f"0.{fixed}" + block * 2,
        f"-{value.numerator}/{value.denominator}",
    ]  # fmt: skip
    wrong += [rf"1.{fixed}\overline{{{block}}}", f"{value.denominator}/{value.numerator}", "0", "1"]
    if {*block} == {fixed or "8"}:  # 0.8(8) is 0.(8)
        wrong = wrong[:1] + wrong[2:]
    return Spelled(rf"0.{fixed}\overline{{{block}}}", right, [w for w in wrong if w != "1" or value != 1])


# ---- expressions


def _written(value: sympy.Expr) -> list[str]:
    """An expression as sympy prints it, and as people write it."""
    text, tex = str(value), latex(value)
    return [
        text, tex, f"${tex}$", rf"\boxed{{{tex}}}", text.replace("**", "^"), text.replace("sqrt", "\N{SQUARE ROOT}"),
        tex.replace(r"\frac", r"\dfrac"), tex.replace(" ", r"\,"), rf"\left({tex}\right)",
        text.replace("pi", "\N{GREEK SMALL LETTER PI}"),
        f"sympy.{text}" if text.startswith("sqrt") else text,
        text.replace("*", r" \cdot ") if "**" not in text else tex,
        f"({text})", text.replace(" ", ""), tex.replace("-", "\N{MINUS SIGN}"), latex(value, fold_short_frac=True),
        latex(value, mul_symbol="dot"), latex(value, mul_symbol="times"), str(sympy.factor(value)),
        latex(sympy.together(value)),
    ]  # fmt: skip


def surd(chance: random.Random) -> Spelled:
    root = chance.choice((2, 3, 5, 6, 7, 10, 11, 13))
    coefficient, offset = (
        Rational(_signed(chance, 9), chance.randint(1, 7)),
        chance.choice((0, 0, Integer(_signed(chance, 9)))),
    )
    value = offset + coefficient * sqrt(root)
    right = [
        *_written(value), repr(float(value)), f"{offset} + {coefficient}*{root}**(1/2)", f"{value.evalf(15)}",
    ]  # fmt: skip
    wrong = [
        str(v)
        for v in (-value, offset + coefficient * sqrt(root + 4), offset + coefficient * root, value + 1, 2 * value)
    ]
    wrong += [
        latex(offset - coefficient * sqrt(root)) if offset else "0", f"{float(value):.3f}", latex(value * sqrt(root)),
    ]  # fmt: skip
    wrong += [rf"{latex(offset)} \pm {latex(abs(coefficient) * sqrt(root))}", f"{root}"]
    return Spelled(latex(value), right, wrong)


def multiple(chance: random.Random) -> Spelled:
    """A multiple of pi or e, a logarithm, or an inverse function."""
    c = Rational(_signed(chance, 12), chance.randint(1, 9))
    p, q = chance.randint(2, 9), chance.randint(10, 30)
    value = chance.choice((
        c * pi, c * pi**2, c + pi, c * sympy.E, sympy.exp(c), sympy.log(p) + c, c * sympy.log(p),
        sympy.acos(Rational(p, q)),
        sympy.atan(p), pi - sympy.acos(Rational(p, q)), sympy.asin(Rational(p, q)), c * sympy.sin(1),
        pi / 2 - sympy.atan(q),
        sympy.sqrt(pi) * c,
    ))  # fmt: skip
    right = [*_written(value), repr(float(value))]
    tex = latex(value)
    for name in ("acos", "atan", "asin"):
        right.append(tex.replace(rf"\operatorname{{{name}}}", rf"\arc{name[1:]}"))
        right.append(tex.replace(rf"\operatorname{{{name}}}", rf"\{name[1:]}^{{-1}}"))
    right.append(
        re.sub(
            r"(?<![a-z])(exp|sin|log|pi|acos|atan|asin|E|sqrt)(?![a-z])",
            lambda m: "math." + m[0].replace("E", "e"),
            str(value),
        )
    )
    right.append(tex.replace(r"\log", r"\ln"))
    wrong = [
        str(-value), str(value + 1), latex(2 * value), f"{float(value):.3f}", str(value).replace("pi", "3"),
        str(1 / value),
    ]  # fmt: skip
    wrong += [
        tex.replace(r"\operatorname{acos}", r"\cos")
        .replace(r"\operatorname{atan}", r"\tan")
        .replace(r"\operatorname{asin}", r"\sin")
    ]
    wrong = [w for w in wrong if w != tex and w != str(value)]
    return Spelled(
        tex.replace(r"\operatorname{acos}", r"\arccos")
        .replace(r"\operatorname{atan}", r"\arctan")
        .replace(r"\operatorname{asin}", r"\arcsin")
        .replace(r"\log", r"\ln"),
        right,
        wrong,
    )


def complex_number(chance: random.Random) -> Spelled:
    p, q = _signed(chance, 30), _signed(chance, 30)
    value = p + q * I
    right = [
        *_written(value), str(complex(p, q)), f"{p}{q:+d}i", f"{q}i{p:+d}", f"{p} {'+' if q > 0 else '-'} {abs(q)}j",
        f"({p}) + ({q})i",
    ]  # fmt: skip
    wrong = [
        str(v)
        for v in (
            p - q * I,
            -p + q * I,
            q + p * I if p != q else Integer(p),
            Integer(p + q),
            p + (q + 1) * I,
            p * q * I,
        )
    ]
    return Spelled(f"{p}{q:+d}i", right, [*wrong, f"({p}, {q})", f"{p}", rf"{p} \pm {abs(q)}i"])


def polynomial(chance: random.Random) -> Spelled:
    roots = [_signed(chance, 9) for _ in range(chance.randint(2, 3))]
    value = sympy.expand(sympy.prod(x - root for root in roots) * chance.choice((1, 1, 2, 3, -1)))
    factored = sympy.factor(value)
    right = [*_written(value), *_written(factored)]
    right += [
        re.sub(r"\^\{(\d)\}", lambda m: "⁰¹²³⁴⁵⁶⁷⁸⁹"[int(m[1])], latex(value)), f"f(x) = {latex(value)}",
        f"y = {value}",
    ]  # fmt: skip
    wrong = [
        str(v)
        for v in (
            value + 1,
            -value,
            value * x,
            value.subs(x, -x) if value.subs(x, -x) != value else value + x,
            value + x,
        )
    ]
    wrong += [
        latex(value.subs(x, t)), latex(value * 2), str(sympy.prod(x + root for root in roots)) if sum(roots) else "0",
        latex(value) + "=0",
    ]  # fmt: skip
    wrong = [w for w in wrong if w not in (str(value), str(factored))]
    same = sympy.expand(sympy.prod(x + root for root in roots) - value) == 0
    return Spelled(chance.choice((latex(value), latex(factored))), right, wrong[:-2] if same else wrong)


def formula(chance: random.Random) -> Spelled:
    """A formula in letters, with a fraction, a root or a function."""
    p, q = chance.randint(2, 9), chance.randint(2, 9)
    value = chance.choice((
        x / p, p * x / q + 1, p / (q * x), (x + p) / (y - q), a / b * x, a / (b * x), sqrt(a**2 + p * b**2),
        p * sympy.sin(pi * x / q) + 1,
        sympy.exp(-p * t) / q, Rational(p, q + 10) * pi * a**3, (p**n - 1) / Integer(q), sympy.Abs(x - p),
        x ** Rational(1, p), a + p * b,
        sympy.log(x + p), sympy.tan(x / p), n * (n + 1) / 2, 2**n - p, sympy.cot(x) + p, a * sympy.cos(t) ** 2,
        1 / (1 + x**p),
    ))  # fmt: skip
    right = _written(value)
    letter = sorted(value.free_symbols, key=str)[0]
    other = value.subs(letter, symbols("w"))
    wrong = [str(v) for v in (value + 1, -value, 1 / value, value * letter, 2 * value, other, value.subs(letter, 1))]
    return Spelled(latex(value), right, [w for w in wrong if w != str(value)])


def equation(chance: random.Random) -> Spelled:
    p, q, r = _signed(chance, 9), _signed(chance, 9), _signed(chance, 9)
    if chance.random() < 0.5:
        value = p * x + q
        right = [
            f"y = {value}", f"y={latex(value)}", f"Eq(y, {value})", f"y - ({value}) = 0", f"{value} = y",
            latex(value), f"2y = {2 * value}",
        ]  # fmt: skip
        right += [f"$y = {latex(value)}$", f"y={p}x{q:+d}", rf"\boxed{{y = {latex(value)}}}"]
        wrong = [
            f"y = {value + 1}", f"y = {-value}", f"y = {p * x - q}", f"x = {p}y{q:+d}", f"Ne(y, {value})",
            f"y > {value}", f"y = {q * x + p}",
        ]  # fmt: skip
        wrong = wrong[:-1] if p == q else wrong
        return Spelled(f"y = {latex(value)}", right, wrong if p != 1 else wrong[:3])
    value = p * x + q * y + r
    right = [
        f"{value} = 0", f"{latex(-value)} = 0", f"Eq({value}, 0)", f"{latex(p * x + q * y)} = {-r}",
        f"{latex(3 * value)} = 0", f"{p}x{q:+d}y{r:+d} = 0",
    ]  # fmt: skip
    wrong = [
        f"{latex(value + 1)} = 0", f"{latex(p * x - q * y + r)} = 0", latex(value), f"{latex(p * x + q * y)} = {r}",
        f"{latex(value)} > 0", "0",
    ]  # fmt: skip
    return Spelled(f"{latex(value)} = 0", right, wrong)


# ---- sets, points, matrices


def _end(chance: random.Random, low: int, high: int) -> sympy.Expr:
    return chance.choice((Integer(chance.randint(low, high)), Rational(chance.randint(2 * low + 1, 2 * high - 1), 2)))


def interval(chance: random.Random) -> Spelled:
    low, high = _end(chance, -20, 0), _end(chance, 2, 20)
    if chance.random() < 0.3:
        high = sympy.sqrt(chance.choice((2, 3, 5, 7)))
    opens = [chance.random() < 0.5, chance.random() < 0.5]
    kind = chance.choice(("both", "both", "low", "high"))

    def bracketed(ends: tuple[str, str], is_open: list[bool]) -> str:
        return f"{'(' if is_open[0] else '['}{ends[0]}, {ends[1]}{')' if is_open[1] else ']'}"

    if kind == "both":
        reference = bracketed((latex(low), latex(high)), opens)
        below, above = ("<" if opens[0] else "<="), ("<" if opens[1] else "<=")
        words = {"<": "<", "<=": r"\le"}
        right = [
            bracketed((str(low), str(high)), opens), f"{low} {below} x {above} {high}",
            f"({low} {below} x) & (x {above} {high})", f"{latex(low)} {words[below]} x {words[above]} {latex(high)}",
            f"x \\in {reference}", str(sympy.Interval(low, high, *opens)), latex(sympy.Interval(low, high, *opens)),
            f"And(x {below.replace('<', '>')} {low}, x {above} {high})",
            rf"\{{x : {latex(low)} {words[below]} x {words[above]} {latex(high)}\}}",
            f"{low} {below} x and x {above} {high}".replace("<=", "\N{LESS-THAN OR EQUAL TO}"),
            f"x ∈ {bracketed((str(low), str(high)), opens)}",
            bracketed((latex(low), latex(high)), opens).replace(" ", ""),
        ]  # fmt: skip
        wrong = [
            bracketed((latex(low), latex(high)), [not opens[0], opens[1]]),
            bracketed((latex(low), latex(high)), [opens[0], not opens[1]]),
            bracketed((latex(low + 1), latex(high)), opens), bracketed((latex(low), latex(high + 1)), opens),
            f"{low} {below} x", bracketed((latex(-high), latex(-low)), opens) if low + high != 0 else "0",
            f"x {below} {low}", f"({low} {below} x) | (x {above} {high})", f"{latex(low)}",
            rf"\{{{latex(low)}, {latex(high)}\}}", bracketed((latex(low), r"\infty"), opens),
        ]  # fmt: skip
        return Spelled(reference, right, wrong)
    is_open = opens[0]
    if kind == "low":
        reference = bracketed((latex(low), r"\infty"), [is_open, True])
        sign, tex, uni, flip = (">", ">", ">", "<") if is_open else (">=", r"\ge", "\N{GREATER-THAN OR EQUAL TO}", "<=")
        right = [
            bracketed((str(low), "oo"), [is_open, True]), str(sympy.Interval(low, sympy.oo, is_open)),
            f"{low} {flip} x", bracketed((str(low), "∞"), [is_open, True]),
        ]  # fmt: skip
        right += [f"({low} {flip} x) & (x < oo)", bracketed((latex(low), r"+\infty"), [is_open, True])]
        wrong = [
            bracketed((latex(low), r"\infty"), [not is_open, True]),
            bracketed((latex(low + 1), r"\infty"), [is_open, True]),
        ]  # fmt: skip
        wrong += [bracketed((r"-\infty", latex(low)), [True, is_open]), f"x {flip} {low}", f"{low}"]
    else:
        reference = bracketed((r"-\infty", latex(low)), [True, is_open])
        sign, tex, uni, flip = ("<", "<", "<", ">") if is_open else ("<=", r"\leq", "\N{LESS-THAN OR EQUAL TO}", ">=")
        right = [
            bracketed(("-oo", str(low)), [True, is_open]), str(sympy.Interval(-sympy.oo, low, True, is_open)),
            f"{low} {flip} x",
        ]  # fmt: skip
        right += [f"(-oo < x) & (x {sign} {low})"]
        wrong = [
            bracketed((r"-\infty", latex(low)), [True, not is_open]), f"x {flip} {low}", f"x {sign} {low + 1}",
        ]  # fmt: skip
    right += [
        f"x {sign} {low}", f"x {tex} {latex(low)}", f"x {uni} {low}", rf"\{{x \mid x {tex} {latex(low)}\}}",
        f"$x {tex} {latex(low)}$",
    ]  # fmt: skip
    return Spelled(reference, right, [*wrong, rf"x \ne {latex(low)}"])


def union(chance: random.Random) -> Spelled:
    first, second = chance.randint(-20, -1), chance.randint(1, 20)
    reference = rf"(-\infty, {first}) \cup ({second}, \infty)"
    right = [
        f"x < {first} or x > {second}", f"(x < {first}) | (x > {second})",
        f"((-oo < x) & (x < {first})) | (({second} < x) & (x < oo))",
        str(sympy.Union(sympy.Interval.open(-sympy.oo, first), sympy.Interval.open(second, sympy.oo))),
        f"(-oo, {first}) U ({second}, oo)", rf"({second}, \infty) \cup (-\infty, {first})",
        f"(-∞, {first}) \N{UNION} ({second}, ∞)", rf"x < {first} \text{{ or }} x > {second}",
        rf"\mathbb{{R}} \setminus [{first}, {second}]", rf"x \in (-\infty, {first}) \cup ({second}, +\infty)",
        f"Or(x < {first}, x > {second})",
    ]  # fmt: skip
    wrong = [
        rf"(-\infty, {first}] \cup ({second}, \infty)", rf"(-\infty, {first}) \cup [{second}, \infty)",
        f"({first}, {second})", rf"(-\infty, {first})", f"x < {first} or x > {second + 1}", f"{first} < x < {second}",
        f"(x < {first}) & (x > {second})", rf"\mathbb{{R}} \setminus ({first}, {second})",
        rf"(-\infty, {second}) \cup ({first}, \infty)", rf"\mathbb{{R}} \setminus \{{{first}, {second}\}}",
        f"x <= {first} or x >= {second}",
    ]  # fmt: skip
    if chance.random() < 0.3:
        holes = rf"(-\infty, {first}) \cup ({first}, {second}) \cup ({second}, \infty)"
        right = [
            rf"\mathbb{{R}} \setminus \{{{first}, {second}\}}", rf"x \ne {first}, {second}",
            f"Complement(Reals, {{{first}, {second}}})",
        ]  # fmt: skip
        right += [
            str(
                sympy.Union(
                    sympy.Interval.open(-sympy.oo, first),
                    sympy.Interval.open(first, second),
                    sympy.Interval.open(second, sympy.oo),
                )
            )
        ]
        wrong = [
            r"\mathbb{R}", rf"\mathbb{{R}} \setminus \{{{first}\}}", rf"x \ne {first}", f"({first}, {second})",
            rf"\{{{first}, {second}\}}",
        ]  # fmt: skip
        return Spelled(holes, right, wrong)
    return Spelled(reference, right, wrong)


def solutions(chance: random.Random) -> Spelled:
    values = chance.sample(range(-20, 21), chance.choice((2, 3)))
    mixed: list[sympy.Expr] = [Integer(value) for value in values]
    if chance.random() < 0.4:
        mixed[0] = Rational(2 * values[0] + 1, 2)
    if chance.random() < 0.2:
        mixed[-1] = sqrt(chance.choice((2, 3, 5)))
    texts, texes = [str(v) for v in mixed], [latex(v) for v in mixed]
    shuffled = chance.sample(texts, len(texts))
    right = [
        ", ".join(texts), ", ".join(shuffled), f"[{', '.join(shuffled)}]", f"{{{', '.join(texts)}}}",
        f"FiniteSet({', '.join(texts)})", " or ".join(f"x = {v}" for v in texts),
        ", ".join(f"x = {v}" for v in shuffled), rf"x = {', '.join(texes)}", rf"\{{{', '.join(texes)}\}}",
        rf"x \in \{{{', '.join(texes)}\}}", r" \text{ or } ".join(f"x={v}" for v in texes), " and ".join(shuffled),
        f"set([{', '.join(texts)}])", ", ".join(f"x_{i} = {v}" for i, v in enumerate(texts, 1)),
        f"[{', '.join(f'{{x: {v}}}' for v in texts)}]", f"${'$ and $'.join(texes)}$",
        " ".join([", ".join(texts[:-1]), "and", texts[-1]]), "; ".join(texts),
        f"[{', '.join(f'np.float64({float(v)})' for v in mixed)}]",
    ]  # fmt: skip
    wrong = [
        ", ".join(texts[1:]), ", ".join([*texts, "99"]), ", ".join([texts[0], *["77"] * (len(texts) - 1)]), texts[0],
        " or ".join(f"x = {v}" for v in texts[:-1]), f"{{{', '.join([*texts[:-1], '55'])}}}",
        ", ".join([str(-mixed[0]) if mixed[0] else "1", *texts[1:]]) if -mixed[0] not in mixed else "99",
        "".join(texts), " + ".join(texts),
    ]  # fmt: skip
    return Spelled(", ".join(texes), right, wrong)


def plus_minus(chance: random.Random) -> Spelled:
    centre, root = _signed(chance, 9), chance.choice((2, 3, 5, 7, 11))
    low, high = centre - sqrt(root), centre + sqrt(root)
    right = [
        f"[{low}, {high}]", f"{latex(high)}, {latex(low)}", f"{centre} ± \N{SQUARE ROOT}{root}",
        rf"x = {centre} \pm \sqrt{{{root}}}", f"{{{low}, {high}}}",
    ]  # fmt: skip
    right += [
        rf"\{{{latex(low)}, {latex(high)}\}}", rf"x = {latex(low)} \text{{ or }} x = {latex(high)}",
        rf"{centre} \mp \sqrt{{{root}}}", f"[{low.evalf()}, {high.evalf()}]",
    ]  # fmt: skip
    right += [rf"{latex(low)} \text{{ and }} {latex(high)}"]
    wrong = [
        latex(low), latex(high), rf"{-centre} \pm \sqrt{{{root}}}", rf"{centre} \pm {root}",
        rf"{centre} \pm \sqrt{{{root + 4}}}", f"({low})*({high})", f"{low}, {-high}",
    ]  # fmt: skip
    return Spelled(rf"{centre} \pm \sqrt{{{root}}}", right, wrong)


def point(chance: random.Random) -> Spelled:
    values: list[sympy.Expr] = [Integer(v) for v in chance.sample(range(-20, 21), chance.choice((2, 3)))]
    if chance.random() < 0.5:
        values[0] = Rational(2 * values[0] + 1, 2)
    texts, texes = [str(v) for v in values], [latex(v) for v in values]
    decimals = [repr(float(v)) for v in values]
    right = [
        f"({', '.join(texts)})", rf"\left( {', '.join(texes)} \right)", f"({','.join(texes)})",
        f"({', '.join(decimals)})", f"$({', '.join(texes)})$",
        f"(x, y{', z' if len(values) == 3 else ''}) = ({', '.join(texts)})",
        ", ".join(f"{n} = {v}" for n, v in zip("xyz", texts, strict=False)),
        f"({', '.join(f'Rational({v.p}, {v.q})' for v in values)})",
        f"({', '.join(f'np.float64({v})' for v in decimals)})", f"Point{len(values)}D({', '.join(texts)})",
        f"{{{', '.join(f'{n}: {v}' for n, v in zip('xyz', texts, strict=False))}}}",
        f"{{{', '.join(f'{n!r}: {v}' for n, v in zip('xyz', texts, strict=False))}}}", f"Tuple({', '.join(texts)})",
        rf"\boxed{{({', '.join(texes)})}}",
    ]  # fmt: skip
    wrong = [
        f"({', '.join(texts[::-1])})", f"({', '.join([str(values[0] + 1), *texts[1:]])})",
        f"({', '.join([str(-values[0]) if values[0] else '5', *texts[1:]])})", f"({', '.join([*texts, '0'])})",
        f"({texts[0]})", ", ".join(f"{n} = {v}" for n, v in zip("xyz", texts[::-1], strict=False)),
        f"[{', '.join(texts)})", f"({', '.join([*texts[:-1], str(values[-1] + 1)])})", f"({'; '.join(texts)}; 1)",
    ]  # fmt: skip
    return Spelled(rf"\left( {', '.join(texes)} \right)", right, wrong)


def matrix(chance: random.Random) -> Spelled:
    rows = chance.choice(((2, 2), (3, 1), (2, 1), (3, 3)))
    cells = chance.sample(range(-15, 16), rows[0] * rows[1])
    value = sympy.Matrix(*rows, [Rational(c, chance.choice((1, 1, 2))) for c in cells])
    if len(set(value)) < len(value):
        value = sympy.Matrix(*rows, cells)
    body = r" \\ ".join(" & ".join(latex(c) for c in value.row(i)) for i in range(rows[0]))
    lists = [[str(c) for c in value.row(i)] for i in range(rows[0])]
    listed = "[" + ", ".join("[" + ", ".join(row) + "]" for row in lists) + "]"
    right = [
        str(value), latex(value), rf"\begin{{bmatrix}} {body} \end{{bmatrix}}", listed, f"array({listed})",
        f"np.array({listed})", f"$\\begin{{pmatrix}} {body} \\end{{pmatrix}}$",
    ]  # fmt: skip
    right += [latex(value, mat_str="array"), latex(value, mat_delim="("), str(value.tolist())]
    if rows[1] == 1:
        right += [
            "[" + ", ".join(str(c) for c in value) + "]", "Matrix([" + ", ".join(f"[{c}]" for c in value) + "])",
        ]  # fmt: skip
    changed = value.copy()
    changed[0, 0] += 1
    swapped = sympy.Matrix(*rows, list(value)[::-1])
    wrong = [
        str(-value), str(changed), str(swapped), latex(changed), str(value.col_insert(0, value.col(0))),
        latex(2 * value),
    ]  # fmt: skip
    wrong += [str(value.T)] if rows[0] == rows[1] else []
    return Spelled(rf"\begin{{pmatrix}} {body} \end{{pmatrix}}", right, wrong)


def family(chance: random.Random) -> Spelled:
    q, period = chance.randint(2, 8), chance.choice((1, 2))
    start, step = pi * Rational(chance.choice((1, -1)), q), pi * period
    body = f"{latex(start)} + {latex(step * k)}"
    renamed = latex(start + step * n)
    right = [
        rf"x = {body}, k \in \mathbb{{Z}}", rf"{renamed}, n \in \mathbb{{Z}}", str(start + step * k),
        rf"{body} \quad (k \in \mathbb{{Z}})", rf"\{{{body} \mid k \in \mathbb{{Z}}\}}",
        rf"\{{x \mid x = {renamed}, n \in \mathbb{{Z}}\}}",
        f"x = {start} + {step}*n, n \N{ELEMENT OF} \N{DOUBLE-STRUCK CAPITAL Z}",
        rf"{latex(start + step + step * k)}, k \in \mathbb{{Z}}", f"{start + step * k}, where k is an integer",
        str(sympy.ImageSet(sympy.Lambda(n, start + step * n), sympy.S.Integers)),
        rf"{latex(start - step * k)}, k \in \mathbb{{Z}}", f"x = {start + step * n} for any integer n",
        rf"$x = {body}$, where $k \in \mathbb{{Z}}$", rf"{body}, k \in Z",
    ]  # fmt: skip
    mirrored = start if q * period == 2 or 2 * abs(start) == step else -start + step * k
    wrong = [
        rf"{body}, k \in \mathbb{{N}}", rf"{latex(start + 3 * step * k)}, k \in \mathbb{{Z}}", latex(start),
        rf"{latex(mirrored)}, k \in \mathbb{{Z}}",
        rf"{latex(start + 1 + step * k)}, k \in \mathbb{{Z}}", latex(step * k), rf"{body}, {latex(start + 1)}",
        rf"{latex(start + step * k / 2)}, k \in \mathbb{{Z}}",
    ]  # fmt: skip
    return Spelled(rf"{body}, k \in \mathbb{{Z}}", right, wrong)


def ratio(chance: random.Random) -> Spelled:
    p, q = chance.choice(((2, 3), (3, 5), (1, 4), (7, 2), (5, 8), (9, 4)))
    right = [
        f"{p} : {q}", f"{p}:{q}", f"{2 * p}:{2 * q}", f"{p}/{q}", rf"\frac{{{p}}}{{{q}}}", f"${p}:{q}$",
        rf"\boxed{{{p}:{q}}}",
    ]  # fmt: skip
    return Spelled(
        f"{p}:{q}", right, [f"{q}:{p}", f"{p + 1}:{q}", f"{p}:{q}:1", f"{p}", f"({p}, {q})", f"{p}{q}", f"{p}:-{q}"]
    )


def words(chance: random.Random) -> Spelled:
    word, other = chance.sample(
        ("even", "odd", "ellipse", "parabola", "Navin", "Evelyn", "east", "Thursday", "convergent", "isosceles", "no"),
        2,
    )
    right = [
        word, word.upper(), f"The answer is {word}.", rf"\boxed{{\text{{{word}}}}}", f"'{word}'", f"**{word}**",
        rf"\mathrm{{{word}}}", f"{word}.",
    ]  # fmt: skip
    return Spelled(
        rf"\text{{{word}}}",
        right,
        [other, f"not {word}", f"{word} or {other}", "5", f"{word} {other}", word[:-1], rf"\text{{{other}}}", "None"],
    )


def choice(chance: random.Random) -> Spelled:
    letter, other = chance.sample("ABCDEFGH", 2)
    right = [
        letter, f"({letter})", rf"\boxed{{{letter}}}", f"{letter}.", f"Option {letter}", rf"\text{{{letter}}}",
        f"The answer is {letter}.", f"The answer is ({letter}).", f"({letter}) 42", f"**{letter}**",
    ]  # fmt: skip
    return Spelled(
        rf"\text{{({letter})}}",
        right,
        [
            other,
            f"({other})",
            f"{letter}, {other}",
            f"({letter}) or ({other})",
            f"Option {other}",
            f"{letter}{other}",
            f"not {letter}",
            f"({other}) 42",
        ],
    )


# ---- operators, words, names


def series(chance: random.Random) -> Spelled:
    low, high = chance.randint(0, 3), chance.randint(4, 9)
    body = chance.choice((k, k**2, 2 * k + 1, k**2 - k, 3 * k - 2))
    name, combine = chance.choice((("sum", sympy.Add), ("prod", sympy.Mul)))

    def value(first: int, last: int) -> sympy.Expr:
        return combine(*(body.subs(k, at) for at in range(first, last + 1)))

    def written(first: int, last: int, index: str = "k", term: sympy.Expr = body) -> str:
        return rf"\{name}_{{{index}={first}}}^{{{last}}} \left({latex(term).replace('k', index)}\right)"

    right = [
        written(low, high), written(low, high, "i"), written(low, high, "n"),
        written(low, high).replace(f"\\{name}", rf"\{name}\limits"),
        rf"{written(low, high)} + 0", rf"\left({written(low, high)}\right)", f"${written(low, high)}$",
    ]  # fmt: skip
    if name == "sum":
        right += [rf"2{written(low, high)} - {latex(value(low, high))}", rf"\frac{{{written(low, high)}}}{{1}}"]
    changed = [(low, high + 1), (low + 1, high), (low, high - 1)]
    wrong = [written(*ends) for ends in changed if value(*ends) != value(low, high)]
    wrong += [f"{written(low, high)} + 1", written(low, high, "k", body + 1), written(low, high).replace("k=", "m=")]
    return Spelled(str(value(low, high)), right, wrong)


def integral(chance: random.Random) -> Spelled:
    low, high = sorted(chance.sample(range(-3, 6), 2))
    body = chance.choice((x**2, 3 * x + 1, x**3 - x, 1 / (x + 9), sympy.exp(x)))
    value = sympy.integrate(body, (x, low, high))
    text = latex(body)
    right = [
        rf"\int_{{{low}}}^{{{high}}} \left({text}\right) dx", rf"\int_{{{low}}}^{{{high}}} {text} \, dx",
        rf"\int_{{{low}}}^{{{high}}} {text} \,\mathrm{{d}}x", str(value),
        rf"\int_{{{low}}}^{{{high}}} \left({text.replace('x', 't') if 'exp' not in str(body) else 'e^t'}\right) dt",
    ]  # fmt: skip
    wrong = [
        rf"\int_{{{low}}}^{{{high + 1}}} \left({text}\right) dx", rf"-\int_{{{low}}}^{{{high}}} {text} \, dx",
        rf"\int_{{{low}}}^{{{high}}} \left({text}\right) dy", rf"\int {text} \, dx", text,
        rf"\int_{{{low}}}^{{{high}}} {text} \, dx + 1",
    ]  # fmt: skip
    return Spelled(latex(value), right, wrong) if value != 0 else integral(chance)


def remainder(chance: random.Random) -> Spelled:
    modulus = chance.randint(3, 30)
    number = chance.randint(modulus, 2_000)
    value, multiple = number % modulus, number + modulus * chance.randint(1, 9)
    if chance.random() < 0.5:
        right = [
            rf"{number} \bmod {modulus}", f"{number} % {modulus}", f"{number} mod {modulus}",
            rf"{multiple} \bmod {modulus}",
        ]  # fmt: skip
        wrong = [rf"{number + 1} \bmod {modulus}", rf"{value} \pmod{{{modulus}}}", rf"{number} / {modulus}"]
        return Spelled(str(value), right, wrong)
    right = [
        rf"{multiple} \pmod{{{modulus}}}", rf"x \equiv {value} \pmod{{{modulus}}}", f"x ≡ {number} (mod {modulus})",
        rf"x \equiv {value} \mod {modulus}",
    ]  # fmt: skip
    wrong = [
        rf"{value + 1} \pmod{{{modulus}}}", rf"{value} \pmod{{{modulus + 1}}}", str(value), f"x = {value}",
        rf"x \not\equiv {value} \pmod{{{modulus}}}",
    ]  # fmt: skip
    return Spelled(rf"{value} \pmod{{{modulus}}}", right, wrong)


def spelled(chance: random.Random) -> Spelled:
    value = chance.choice((chance.randint(21, 99), chance.randint(100, 999), chance.randint(1_000, 999_999)))
    words = _in_words(value)
    right = [words, words.title(), words.replace("-", " "), rf"\text{{{words}}}", f"The answer is {words}."]
    wrong = [_in_words(value + 1), _in_words(10 * value), f"not {words}", f"{words} or more", f"half of {value}"]
    wrong += [f"twice {value}", f"{value} squared", f"{value} dozen", rf"{value} \text{{ million}}", f"{value} halves"]
    wrong += [f"{value} or more", f"at least {value}", rf"{value} \text{{ or less}}", f"root of {value}"]
    size, word = chance.choice(((12, "dozen"), (100, "hundred"), (1000, "thousand"), (10**6, "million")))
    if value % size == 0:
        right += [f"{value // size} {word}", rf"{value // size} \text{{ {word}}}"]
    return Spelled(str(value), right, wrong)


_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def _in_words(value: int) -> str:
    """English: 120_021 is "one hundred and twenty thousand twenty-one"."""
    if value < 20:
        return _SMALL[value]
    if value < 100:
        tens = _TENS[value // 10 - 2]
        return tens if value % 10 == 0 else f"{tens}-{_in_words(value % 10)}"
    size, word = (100, "hundred") if value < 1_000 else (1_000, "thousand") if value < 10**6 else (10**6, "million")
    above = f"{_in_words(value // size)} {word}"
    joint = " and " if size == 100 and value % 2 else " "
    return above if value % size == 0 else f"{above}{joint}{_in_words(value % size)}"


def solution(chance: random.Random) -> Spelled:
    name, other = chance.sample("abmnpqtxyz", 2)
    value = chance.choice((Integer(_signed(chance)), Rational(_signed(chance), 7), sqrt(chance.choice((2, 3, 5)))))
    text, tex = str(value), latex(value)
    right = [
        text,
        f"{name} = {text}",
        f"${name} = {tex}$",
        f"{tex} = {name}",
        f"Eq({name}, {text})",
        f"{{{name}: {text}}}",
    ]
    wrong = [
        f"{other} = {text}", f"{name} = {latex(value + 1)}", f"{name} > {text}", f"{other} = {tex}, {name} = 0",
        f"{tex}{name}", rf"{name} \ne {tex}", f"{{{other}: {text}}}",
        f"{name}_1 = {text}, {name}_2 = {latex(value + 1)}",
        f"f({name}) = {text}",
    ]  # fmt: skip
    return Spelled(f"{name} = {tex}", right, wrong)


KINDS: dict[str, Callable[[random.Random], Spelled]] = {
    function.__name__: function
    for function in (
        integer, fraction, decimal, scientific, percent, money, quantity, based, recurring, surd, multiple,
        complex_number, polynomial, formula,
        equation, interval, union, solutions, plus_minus, point, matrix, family, ratio, words, choice,
        series, integral, remainder, spelled, solution,
    )
}  # fmt: skip


def gold_pairs(folder: Path, count: int, seed: int = SEED) -> list[Pair]:
    """At least ``count`` pairs from gold answers of MATH and GSM8K in a folder of public data."""
    chance, found = random.Random(seed), {}
    answers = [*_gold(folder)]
    while len(found) < count:
        set_name, gold = chance.choice(answers)
        value = _dressed(gold, chance)
        for is_right, others in ((True, value.right), (False, value.wrong)):
            for answer in chance.sample(others, min(len(others), 2)):
                if answer != gold:
                    found.setdefault((gold, answer), Pair(set_name, gold, answer, is_right))
    return list(found.values())


def _gold(folder: Path) -> Iterator[tuple[str, str]]:
    for name in ("math_500_20250414.json", "math_1000_20250414.json", "math_medium_1000_20250430.json"):
        for example in json.loads((folder / "tasks" / name).read_text(encoding="utf-8"))["examples"]:
            if example["answer"]:
                yield "MATH", str(example["answer"])
    for line in (folder / "tasks" / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines():
        yield "GSM8K", json.loads(line)["answer"].rpartition("####")[2].strip()


def _dressed(gold: str, chance: random.Random) -> Spelled:
    """A gold answer in other notations, and with one change in its value."""
    right = [
        rf"\boxed{{{gold}}}", f"The answer is ${gold}$.", f"**Answer:** ${gold}$", rf"\[{gold}\]", f"{gold}.",
        f" {gold} ", f"$${gold}$$",
    ]  # fmt: skip
    right = right if "$" not in gold else [rf"\boxed{{{gold}}}", f"{gold}."]
    right += [
        gold.replace(r"\frac", r"\dfrac"), gold.replace("-", "\N{MINUS SIGN}"),
        gold.replace(r"\left", "").replace(r"\right", ""),
    ]  # fmt: skip
    right += [
        gold.replace("(", r"\left(").replace(")", r"\right)") if r"\left" not in gold and "\\text" not in gold else gold
    ]
    wrong = [f"{gold} + 1", rf"{gold} \text{{ or }} 12345", f"{gold}, 12345", "12345", "None", ""]
    digits = [found.start() for found in re.finditer(r"\d", gold)]
    if digits:
        at = chance.choice(digits)
        wrong += [
            f"{gold[:at]}{(int(gold[at]) + 1) % 10}{gold[at + 1 :]}", f"{gold[:at]}{gold[at]}7{gold[at + 1 :]}",
        ]  # fmt: skip
    if re.fullmatch(r"[\d.,\\!]+|\\d?frac\{\d+\}\{\d+\}|\d*\\sqrt\{\d+\}", gold) and re.search("[1-9]", gold):
        wrong += [
            f"-{gold}", f"{gold}x", f"{gold}i", rf"\pm {gold}", f"({gold})^3" if gold != "1" else "0", f"10*({gold})",
        ]  # fmt: skip
    if interval := re.fullmatch(r"(\(|\[)(?!-\\infty)(.*)(\)|\])", gold):
        wrong += [{"(": "[", "[": "("}[interval[1]] + interval[2] + interval[3]]
    return Spelled(gold, [answer for answer in right if answer != gold], wrong)
