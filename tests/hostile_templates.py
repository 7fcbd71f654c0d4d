"""Chat templates that mean harm, by family, from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

Maker = Callable[[random.Random], str]


def hostile_templates(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """(family, template), all families in turn."""
    rng = random.Random(seed)
    names = list(FAMILIES)
    for index in range(count):
        family = names[index % len(names)]
        yield family, rng.choice(FAMILIES[family])(rng)


def _big(rng: random.Random) -> int:
    return rng.choice([2**31 - 1, 2**31, 2 * 10**9, 10**10, 2**62, 2**63, 10**20])


def _deep(rng: random.Random) -> int:
    return rng.choice([90, 300, 1_000, 5_000, 50_000])


def _fixed(text: str) -> Maker:
    return lambda rng: text


def _nest(opening: str, middle: str, closing: str) -> Maker:
    def make(rng: random.Random) -> str:
        depth = _deep(rng)
        return opening * depth + middle + closing * depth

    return make


def _in_braces(maker: Maker) -> Maker:
    return lambda rng: "{{ " + maker(rng) + " }}"


_ROUND = "{% for a in range(99999) %}"

FAMILIES: dict[str, list[Maker]] = {
    "loop": [
        _fixed(_ROUND * 4 + "{% endfor %}" * 4),
        _fixed(_ROUND * 2 + "{{ a }}" + "{% endfor %}" * 2),
        _fixed(_ROUND + _ROUND + "{% set x = a ** a %}" + "{% endfor %}" * 2),
        _fixed("{% set l = [1] %}{% for x in l %}{% set _ = l.append(x) %}{% endfor %}"),
        _fixed(_ROUND * 2 + "{{ messages | tojson }}" + "{% endfor %}" * 2),
    ],
    "power": [
        lambda rng: "{{ 10 ** " + str(rng.choice([5_000, 100_000, 10**8, 10**12])) + " }}",
        lambda rng: "{{ 2 ** 2 ** " + str(rng.randrange(20, 60)) + " }}",
        lambda rng: "{{ (9 ** 9 ** " + str(rng.randrange(5, 9)) + ") % 7 }}",
        lambda rng: "{% set x = 3 ** 1000000 %}{{ x * x * x > 0 }}{{ x }}",
        lambda rng: "{{ 1.5 ** " + str(_big(rng)) + " }}",
    ],
    "repeat": [
        lambda rng: "{{ 'a' * " + str(_big(rng)) + " }}",
        lambda rng: "{{ messages * " + str(_big(rng)) + " }}",
        lambda rng: "{% set x = [0] * 10000000 %}{{ (x * 100) | length }}",
        lambda rng: "{{ '%" + str(_big(rng)) + "s' | format('x') }}",
        lambda rng: "{{ '{:>" + str(_big(rng)) + "}'.format('x') }}",
        lambda rng: "{{ '{:." + str(_big(rng)) + "f}'.format(1.0) }}",
        lambda rng: "{{ 'x'.ljust(" + str(_big(rng)) + ") }}",
        lambda rng: "{{ 'x' | center(" + str(_big(rng)) + ") }}",
        lambda rng: "{{ '\\t'.expandtabs(" + str(_big(rng)) + ") }}",
        lambda rng: "{{ ('ab' * 1000000) | replace('', 'x' * 100000) }}",
        lambda rng: "{{ ('a b ' * 3000000) | wordwrap(1) | length }}",
        lambda rng: "{% set x %}" + "{{ 'a' * 9999999 }}" * rng.randrange(2, 60) + "{% endset %}{{ x }}{{ x }}",
    ],
    "nesting": [
        _in_braces(_nest("(", "1", ")")),
        _in_braces(_nest("[", "", "]")),
        _in_braces(_nest("{'a':", "1", "}")),
        _in_braces(_nest("not ", "1", "")),
        _in_braces(_nest("-", "1", "")),
        _in_braces(_nest("", "messages", "|first")),
        _in_braces(_nest("", "messages", ".a")),
        _in_braces(_nest("", "messages", "[0]")),
        _in_braces(_nest("1 if 1 else ", "1", "")),
        _in_braces(_nest("1 + ", "1", "")),
        _in_braces(_nest("1 ~ ", "1", "")),
        _nest("{% if 1 %}", "x", "{% endif %}"),
        _nest("{% for m in messages %}", "x", "{% endfor %}"),
        _nest("{% generation %}", "x", "{% endgeneration %}"),
        _nest("{% macro m() %}", "x", "{% endmacro %}"),
        _nest("{% block b %}", "x", "{% endblock %}"),
        _nest("{% filter upper %}", "x", "{% endfilter %}"),
    ],
    "recursion": [
        _fixed("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}"),
        _fixed("{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m('x' * 10000) }}"),
        _fixed("{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}"),
        _fixed("{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}"),
        _fixed(
            "{% set f = namespace(d=0) %}{% macro m() %}{% if f.d < 90 %}{% set f.d = f.d + 1 %}{{ m() }}{{ m() }}"
            "{% endif %}{% endmacro %}{{ m() }}"
        ),
        _fixed("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"),
        _fixed(
            "{% macro m() %}{{ caller() }}{% endmacro %}{% macro n() %}{% call m() %}{{ n() }}{% endcall %}"
            "{% endmacro %}{{ n() }}"
        ),
    ],
    "namespace": [
        _fixed("{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"),
        _fixed("{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}"),
        _fixed(
            "{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}"
        ),
        _fixed(
            "{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x | tojson }}"
        ),
        _fixed("{% set n = namespace(x=7) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}"),
        _fixed("{% set n = namespace() %}{% set n.me = n %}{{ n }}{{ n | tojson }}"),
        _fixed("{% set n = namespace() %}{% set n.__class__ = 1 %}{{ n.__dict__ }}"),
    ],
    "sandbox": [
        _fixed("{{ ''.__class__.__mro__ }}"),
        _fixed("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        _fixed("{{ messages[0].__class__.__base__.__subclasses__() | length }}"),
        _fixed("{{ cycler.__init__.__globals__.os.popen('id').read() }}"),
        _fixed("{{ lipsum.__globals__['os'].getcwd() }}"),
        _fixed("{{ self.__init__.__globals__ }}"),
        _fixed("{{ self._TemplateReference__context.environment }}"),
        _fixed("{{ raise_exception.__globals__['sys'].modules }}"),
        _fixed("{{ strftime_now.__code__.co_consts }}"),
        _fixed("{{ '' | attr('__class__') }}"),
        _fixed("{{ messages | map(attribute='__class__') | list }}"),
        _fixed("{{ '{0.__class__.__mro__}'.format('') }}"),
        _fixed("{{ ('{0.__class__.__mro__}' | string).format_map({'0': ''}) }}"),
        _fixed("{% set _ = messages.append(1) %}{{ messages.clear() }}"),
        _fixed("{{ messages.sort.__self__.__class__ }}"),
        _fixed("{{ joiner.__init__.__builtins__ }}"),
        _fixed("{{ (messages | map('upper')).gi_frame.f_globals }}"),
        _fixed("{% include '/etc/passwd' %}"),
        _fixed("{% import 'os' as os %}{{ os.getcwd() }}"),
        _fixed("{% extends 'x' %}"),
    ],
    "syntax": [
        _fixed("{% for %}"),
        _fixed("{{ "),
        _fixed("{% endif %}"),
        _fixed("{{ 1 + }}"),
        _fixed("{{ 'x }}"),
        _fixed("{{ messages | no_such_filter }}"),
        _fixed("{% if messages is no_such_test %}{% endif %}"),
        _fixed("{% no_such_tag %}"),
        _fixed("{% generation %}"),
        _fixed("{% break %}"),
        _fixed("{{ \x00 }}"),
        _fixed("\ud800{{ messages }}"),
        lambda rng: "{{ " + "".join(rng.choice("()[]{}'\"|.,:%+-*/ax01 ") for _ in range(200)) + " }}",
        lambda rng: "{% set " + "a" * rng.choice([10, 10**6]) + " = 1 %}",
        lambda rng: "{{ " + "9" * rng.choice([4_000, 100_000]) + " }}",
        lambda rng: "{# " * 100_000,
        lambda rng: "{% raw %}" * 10_000,
    ],
    "indent": [
        lambda rng: "{{ messages | tojson(indent=" + str(_big(rng)) + ") }}",
        lambda rng: "{{ messages | tojson(separators=(',' * 99999999, ':' * 99999999)) }}",
        lambda rng: "{{ 'a\\nb' | indent(" + str(_big(rng)) + ") }}",
        lambda rng: "{{ 'a\\nb' | indent('x' * 99999999) }}",
        lambda rng: "{{ messages | pprint }}{{ messages | tojson(indent='" + "-" * 99_999 + "') }}",
        lambda rng: "{{ range(99999) | list | tojson(indent=9999) | length }}",
    ],
    "range": [
        lambda rng: "{{ range(" + str(_big(rng)) + ") | list }}",
        lambda rng: "{{ range(99999) | map('string') | map('upper') | list | string }}",
        lambda rng: "{{ [1] | batch(" + str(_big(rng)) + ", 0) | list }}",
        lambda rng: "{{ [1] | slice(" + str(_big(rng)) + ") | list }}",
        lambda rng: "{{ lipsum(n=" + str(10 ** rng.randrange(5, 9)) + ") }}",
        lambda rng: "{{ lipsum(n=1, min=" + str(10**9) + ", max=" + str(10**9 + 1) + ") }}",
        lambda rng: "{{ ('<' * 99999999) | striptags | length }}",
        lambda rng: "{{ ('http://a ' * 999999) | urlize | length }}",
        lambda rng: "{{ strftime_now('%Y' * 9999999) }}",
        lambda rng: "{{ strftime_now('%" + str(_big(rng)) + "Y') }}",
        lambda rng: "{{ strftime_now('\\ud800%') }}",
    ],
    "refusal": [
        _fixed("{{ raise_exception('no') }}"),
        _fixed("{{ raise_exception('no ' * 9999999) }}"),
        _fixed("{{ raise_exception(messages) }}"),
        _fixed("{{ 1 / 0 }}"),
        _fixed("{{ 1 + 'a' }}"),
        _fixed("{{ messages.a.b }}"),
        _fixed("{{ messages[0]() }}"),
        _fixed("{{ (messages | map('no_such'))  | list }}"),
        _fixed("{{ messages | sum }}"),
        _fixed("{{ messages | groupby('x') | first | tojson }}"),
        _fixed("{{ undefined_thing() }}"),
    ],
}
