"""What lies beside an exported model: a model card, and for ollama a Modelfile."""
from nanochat.model import GPTConfig, accounting

# ollama puts <|bos|> in front by itself, and knows no role of a tool here: it shows a call as text.
MODELFILE = '''FROM ./{file}
PARAMETER temperature 0.6
PARAMETER repeat_penalty 1.0
PARAMETER num_ctx {context}
PARAMETER stop <|assistant_end|>
TEMPLATE """{{{{- $system := .System }}}}{{{{- range $i, $m := .Messages }}}}
{{{{- if eq $m.Role "system" }}}}{{{{- $system = $m.Content }}}}
{{{{- else if eq $m.Role "user" }}}}<|user_start|>{{{{ if $system }}}}{{{{ $system }}}}

{{{{ $system = "" }}}}{{{{ end }}}}{{{{ $m.Content }}}}<|user_end|>
{{{{- else if eq $m.Role "assistant" }}}}<|assistant_start|>{{{{ $m.Content }}}}<|assistant_end|>
{{{{- end }}}}{{{{- end }}}}<|assistant_start|>"""
'''
CARD = '''# {name}

A chat model of {parameters:,} parameters, trained with nanochat ({stage}, step {step:,}). It is a small model: it knows
what its training texts say, makes mistakes, and must not be relied upon.

- Context: {context:,} tokens, question and answer together. Longer chats forget their beginning.
- Vocabulary: {vocabulary:,} tokens. A turn ends with `<|assistant_end|>`.
- Repeat penalty 1.0: names are copied from the question, and a penalty spoils that.
- Calculator: the model writes
  `<tool_call><function=calculator><param=expression>12*34</param></function></tool_call>`
  and expects the result between `<tool_response>` and `</tool_response>`. llama.cpp's server offers this as a tool
  `calculator` with one string, `expression`, when a request has `tools`.
- Licence of the data: {data}.
{softcap}'''
SOFTCAP = '''- Trained with a soft cap of {cap:g} on its logits, which this form does not have: the likeliest token is
  the same, and sampled texts are bolder than with nanochat at the same temperature.
'''


def modelfile(file: str, config: GPTConfig) -> str:
    return MODELFILE.format(file=file, context=config.sequence_len)


def card(name: str, stage: str, step: int, config: GPTConfig, data: str) -> str:
    return CARD.format(name=name, stage=stage, step=step, parameters=accounting.num_parameters(config),
                       context=config.sequence_len, vocabulary=config.vocab_size, data=data,
                       softcap=SOFTCAP.format(cap=config.softcap) if config.softcap else "")
