"""Trained, retrieval, base: which one, for what, at what cost, and how sure that is.

questions         what is asked, in sets: seen, unseen, or the user's own
arms              who answers, over as few weights as there are
prompts           the prompt that suits each arm, chosen on other questions
inputs            questions, chunks, examples, read once
rounds            asking in turns, timed and kept as it comes
comparing         the order of all that

scoring           what each answer is worth
figures           scores of every arm with intervals, and the questions behind them
performance       how fast, and what it takes         human_eval   programs, where asked for
consistency       asked again, and in other words     judging      a judge's opinion
cost              seconds of a machine and money, per thousand answers and per right one
verdicts          arm against arm: better, worse, equivalent, or nothing these data can show
findings          all of these, from the answers

use_cases         uses and their rules                recommendations   which arm for which use
deployment        how to run each arm                 next_card         the next training card
results           what all of it is written as
"""
