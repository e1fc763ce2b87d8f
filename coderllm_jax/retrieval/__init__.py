"""Retrieval: chunks become an index, a question becomes passages, and passages an answer's ground.

embedder      texts to unit vectors, by a sentence-transformers model and its prefixes
vectors       nearest vectors: exact, or ScaNN where there are many
lexical       BM25 over words that know what an identifier is
fusion        several rankings become one
relevance     how likely a passage is to be the right one; below what it is none
store         the index on disk: whole, unchanged, or refused
search        a question in, ranked passages out
passages      which of them go into the prompt, and how, so that they stay text
citations     the markers of an answer; those that point nowhere go
answering     an Answerer that looks up before another one answers
metrics       rankings, grounds and citations in figures
"""
