"""The variable quantizer, the tokenizer and the autoregressive model."""
