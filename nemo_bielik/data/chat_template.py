"""The chat template of the tokenizers that this package trains.

A turn is ``<s>role``, a line break, what is said and ``</s>``. No text can pretend to be a turn:
the two tokens are special, and `data/chat.py` refuses them where they are spelt out. They are the
ones that frame every document, so a base model needs no new tokens to become an assistant.
"""

CHAT_TEMPLATE_NAME = "chat_template.jinja"
CHAT_TEMPLATE = """\
{%- if tools %}{{ bos_token + 'tools\\n' + (tools | tojson) + eos_token }}{% endif %}
{%- for message in messages %}
{{- bos_token + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{ message['content'] or '' }}
{%- for call in message.get('tool_calls') or [] %}{{ '\\n' + (call | tojson) }}{% endfor %}
{{- eos_token }}{% endgeneration %}
{%- else %}{{ message['content'] + eos_token }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ bos_token + 'assistant\\n' }}{% endif %}"""
