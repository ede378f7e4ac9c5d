"""The two templates as Jinja source for Hugging Face processors; ``template.chat_template`` fills them in."""

from __future__ import annotations

# A list of parts is written as template.join_parts does.
_TEXT = """\
{%- if message['content'] is string -%}
{%- set text = message['content'] -%}
{%- else -%}
{%- set joined = namespace(text='', opens=true, follows_text=false) -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{%- set joined.text = joined.text + ('<image>\\n' if joined.opens else '<image>') -%}
{%- set joined.follows_text = false -%}
{%- elif part['type'] == 'text' -%}
{%- set joined.text = joined.text + ('\\n' if joined.follows_text else '') + part['text'] -%}
{%- set joined.opens = false -%}
{%- set joined.follows_text = true -%}
{%- endif -%}
{%- endfor -%}
{%- set text = joined.text -%}
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
