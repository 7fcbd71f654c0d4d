"""Chat templates that write tool calls in the forms of the known families, written for the tests."""

from __future__ import annotations

CHATML = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

HERMES = """\
{% if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

LLAMA3 = """\
{% for message in messages %}{% if message.tool_calls %}{% if message.tool_calls | length != 1 %}\
{{ raise_exception("one call at a time") }}{% endif %}<|start|>assistant<|end|>
{{ '{"name": "' + message.tool_calls[0].function.name + '", "parameters": ' }}\
{{ message.tool_calls[0].function.arguments | tojson }}}<|eot|>\
{% else %}<|start|>{{ 'ipython' if message.role == 'tool' else message.role }}<|end|>
{% if loop.first and tools %}{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif %}{{ message.content }}<|eot|>{% endif %}{% endfor %}\
{% if add_generation_prompt %}<|start|>assistant<|end|>
{% endif %}"""

PYTHONIC = """\
{% if tools %}{{ tools | tojson }}
{% endif %}{% for message in messages %}<{{ message.role }}>{{ message.content }}{% if message.tool_calls %}[\
{% for call in message.tool_calls %}{{ call.function.name }}({% for name, value in call.function.arguments.items() %}\
{{ name }}={{ value | tojson }}{% if not loop.last %}, {% endif %}{% endfor %}){% if not loop.last %}, {% endif %}\
{% endfor %}]{% endif %}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
