"""Language models: token ids in, logits of the next token out."""
