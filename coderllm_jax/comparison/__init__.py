"""Trained, retrieval, base: which one, for what, at what cost, and how sure that is.

arms              who answers, each with the prompt that suits it best
questions         what is asked, in sets: seen, unseen, or the user's own
rounds            asked in turns, timed and kept as it comes
scoring           what each answer is worth
dimensions        figures of every arm, with intervals and the questions behind them
verdicts          arm against arm: better, worse, equivalent, or nothing these data can show
cost              seconds of a machine and money, per thousand answers and per right one
recommendations   which arm for which use, by rules
next_card         the training card of the next iteration
results           what all of it is written as
"""
