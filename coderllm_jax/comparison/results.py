"""What a comparison finds, and how it is written: comparison.json.

    comparison.json
      {"status": "finished",
       "results_sha256": "…",            over what does not depend on the clock
       "manifest": {"created", "config", "versions", "commit", "devices", "wall_s",
                    "items": {...}, "run": {...}, "indexes": {...}},
       "arms": [ARM, …],                 in the table's order
       "sets": [SET, …],
       "questions": [QUESTION, …],
       "dimensions": [DIMENSION, …],     accuracy, quality, performance, consistency, cost
       "comparisons": [COMPARISON, …],   arm against arm
       "latency": {"alone": {ARM NAME: TIMES, …}, "together": {ARM NAME: TIMES, …}},
       "cost": COST,
       "recommendations": [RECOMMENDATION, …],
       "deployment": [DEPLOYMENT, …],    one an arm
       "next_iteration": {"card": "next.py" or "", "changes": [CHANGE, …], "words": "…"},
       "unscored": ["…"],                what could not be scored, and why, in sentences
       "notes": ["…"]}                   whatever else a reader should know, in sentences

    ARM           {"name": "rag",         trained, rag, base, trained_rag or endpoint
                   "label": "Retrieval",
                   "model": "gemma3_270m", "looks_up": true,
                   "prompt": {"chosen": "few_shot, 2 examples, 3 passages",
                              "num_items": 16,            of the validation split
                              "candidates": [{"words": "few_shot, …", "is_chosen": true,
                                              "fact_f1": ESTIMATE}, …]},   [] where none were tried
                   "memory": {"total_bytes": …, "parts": {"weights": …, "cache": …, "index": …,
                                                          "embedder": …}, "shared_with": ["base"]},
                   "identity": {...}}
    SET           {"name": "seen",        seen, unseen, or asked (test_queries)
                   "label": "…", "words": "…", "num_questions": 100,
                   "is_scored": true,     false where there are no references
                   "is_headline": true}
    QUESTION      {"id", "set", "kind", "symbol", "question", "reference" ("" where there is none),
                   "facts": ["0.9", …], "round": 3,
                   "answers": {ARM NAME: GIVEN, …}}
    GIVEN         {"text", "finish", "error", "num_prompt_tokens", "num_new_tokens",
                   "sources": [{"id", "text", "source", "score"}, …], "cited": [1, …],
                   "num_false_citations": 0,
                   "facts": {"found": […], "missed": […], "wrong": […], "num_new_words"} or null,
                   "checks": {"answered": true, "right": …, "has_code": …, "parses": …, "runs": …,
                              "found_something": …},       true, false, or null: does not apply
                   "run_reason": "",      why code did not run
                   "scores": {FIGURE NAME: number, …},
                   "times": {"time_to_first_token_s", "time_per_token_s", "total_s",
                             "retrieval_s"}}               number or null
    DIMENSION     {"name": "accuracy", "label": "Accuracy", "figures": [FIGURE, …]}
    FIGURE        {"name": "fact_f1", "label": "Fact F1", "words": "a sentence about it",
                   "set": "seen",         "" where it is of no set
                   "unit": "share",       share (0 to 1), seconds, tokens, words, percent, bytes,
                                          tokens/s, answers/s, chip-seconds, or a currency
                   "better": "higher",    higher, lower, or "" where neither is
                   "is_headline": true,   shown in the table
                   "is_clocked": false,   depends on the clock
                   "arms": {ARM NAME: ESTIMATE, …},        an arm it does not apply to is left out
                   "items": ["qa/…", …]}  questions behind it; their values are in GIVEN's scores
    ESTIMATE      {"value": 0.41, "low": 0.33, "high": 0.49, "num_items": 100}   nulls: not defined
    COMPARISON    {"first": "trained", "second": "base", "dimension": "accuracy",
                   "figure": "fact_f1", "set": "seen", "family": "accuracy", "is_headline": true,
                   "better": "higher", "unit": "share",
                   "difference": ESTIMATE,                 first - second
                   "p_value", "adjusted_p",                after Holm over the family
                   "test": "sign_flip", "effect": "cohens_dz", "effect_size": 0.4,
                   "detectable_difference": 0.06 or null,
                   "num_items": 100, "num_clusters": 100,
                   "num_better": 40, "num_worse": 12,      items on which first is better, worse
                   "verdict": "better",   of first: better, worse, equivalent, no_difference
                   "words": "trained is better than base by 0.12 (0.05 to 0.19)"}
    TIMES         {"time_to_first_token_s": […], "time_per_token_s": […], "total_s": […],
                   "retrieval_s": […]}    one number an answer
    COST          {"currency": "" or "USD", "price_per_chip_hour": null or 1.2,
                   "price_words": "…",    whose price, of when, or that none was set
                   "device": "cpu", "num_chips": 1, "chip_words": "one chip is …",
                   "arms": {ARM NAME: {"chip_seconds_per_1000": ESTIMATE,
                                       "price_per_1000": ESTIMATE,
                                       "chip_seconds_per_right": ESTIMATE,
                                       "price_per_right": ESTIMATE,
                                       "fixed": {"training": 476.2, "index": 12.0},  chip-seconds
                                       "amortised": [{"answers": 1000, "chip_seconds_per_1000": …,
                                                      "price_per_1000": … or null}, …]}},
                   "break_even": [{"first", "second", "answers": 12000 or null, "words": "…"}]}
    RECOMMENDATION {"use_case": "interactive", "label": "…", "arm": "trained" or "",
                   "strength": "strong",  strong, moderate, weak, or none where no arm is fit
                   "words": "…", "rule": "…",
                   "evidence": [{"figure": "accuracy/seen/fact_f1" or "", "words": "…"}, …],
                   "ranking": ["trained", "rag"]}          arms that the rule lets through
    DEPLOYMENT    {"arm", "artifact", "command", "hardware", "words"}
    CHANGE        {"option": "lora.rank", "before": 8, "after": 16, "words": "why",
                   "items": ["qa/…", …]}  questions that failed so

The same answers, as they came, lie in answers.jsonl beside it (`comparison.rounds`).
"""

from __future__ import annotations
