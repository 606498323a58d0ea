"""Extended answers: the answers of a corpus, written again at length by a language model, checked and reviewed."""
