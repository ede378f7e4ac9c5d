"""The two templates as Jinja source for Hugging Face processors; ``template.chat_template`` fills them in."""

from __future__ import annotations

# One image comes first; of two or more each stays where it stands, a line each in a list of parts.
_TEXT = """\
{%- if message['content'] is string -%}
{%- set text = message['content'] -%}
{%- else -%}
{%- set parts = message['content'] | selectattr('type', 'in', ['image', 'text']) | list -%}
{%- set images = parts | selectattr('type', 'equalto', 'image') | list | length -%}
{%- set text = parts | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('\\n') -%}
{%- if images == 1 -%}
{%- set text = '<image>\\n' + text -%}
{%- elif images -%}
{%- set lines = namespace(all=[]) -%}
{%- for part in parts -%}
{%- set lines.all = lines.all + ['<image>' if part['type'] == 'image' else part['text']] -%}
{%- endfor -%}
{%- set text = lines.all | join('\\n') -%}
{%- endif -%}
{%- endif -%}
"""

JINJA_V1 = f"""\
{{%- set opening = SYSTEM -%}}
{{%- set turns = messages -%}}
{{%- if messages and messages[0]['role'] == 'system' -%}}
{{%- set opening = messages[0]['content'] -%}}
{{%- if opening is not string -%}}
{{%- set opening = opening | map(attribute='text') | join('\\n') -%}}
{{%- endif -%}}
{{%- set turns = messages[1:] -%}}
{{%- endif -%}}
{{%- if opening %}}{{{{ opening + ' ' }}}}{{% endif -%}}
{{%- for message in turns -%}}
{_TEXT}{{%- if message['role'] == 'user' -%}}
{{%- if text.count('<image>') == 1 -%}}
{{%- set text = ('<image>\\n' + text.replace('<image>', '').strip()).strip() -%}}
{{%- endif -%}}
{{{{ 'USER: ' + text + ' ' }}}}
{{%- else -%}}
{{{{ 'ASSISTANT: ' + text + EOS }}}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt %}}{{{{ 'ASSISTANT:' }}}}{{% endif -%}}
"""

JINJA_PLAIN = f"""\
{{%- for message in messages -%}}
{_TEXT}{{%- if message['role'] == 'user' -%}}
{{{{ '<image>' * text.count('<image>') }}}}
{{%- elif message['role'] == 'assistant' -%}}
{{{{ text + '\\n' }}}}
{{%- endif -%}}
{{%- endfor -%}}
"""
