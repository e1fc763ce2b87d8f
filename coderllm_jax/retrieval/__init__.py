"""Retrieval: chunks become an index, a question becomes passages, and passages an answer's ground.

opening       from options to a searcher and to an answerer: where callers begin
embedder      texts to unit vectors, by a sentence-transformers model and its prefixes
vectors       nearest vectors: exact, or ScaNN where there are many
words         what word search takes for a word: identifiers are names and made of words
lexical       BM25 over these words
fusion        several rankings become one
relevance     from what similarity on a passage is worth showing
building      makes an index, goes on after a kill, embeds only what is new
store         the index on disk: whole and for what is asked, or refused
search        a question in, ranked passages out
passages      which of them go into the prompt, and how, so that they stay text
citations     the markers of an answer; those that point nowhere go
answering     an Answerer that looks up before another one answers
metrics       rankings, grounds and citations in figures
"""
