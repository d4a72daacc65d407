"""How to read the measures, one line each."""

DEFINITIONS = (
    (
        "Perplexity",
        "exp of the mean loss per token on held-out text; lower is better, 1 is perfect. "
        "Comparable only between models that share a tokenizer.",
    ),
    (
        "Minimal pairs",
        "a correct sentence beside one with a single wrong ending; the share where the model "
        "finds the correct one more probable. Guessing gives 50 %.",
    ),
    (
        "Facts",
        "sentences about what the training text told, with the value left open; the share where "
        "the true value is the most probable of the candidates.",
    ),
    (
        "Baseline",
        "what word frequencies alone score, or guessing where no baseline was measured.",
    ),
    (
        "Recovery",
        "100 · (model − baseline) / (teacher − baseline), the mean of minimal pairs and facts; "
        "0 % is no better than the baseline, 100 % as good as the teacher.",
    ),
    (
        "Lost ground taken back",
        "the share of the loss added by the cut that training removed: (ln P pruned − ln P "
        "distilled) / (ln P pruned − ln P teacher), P the perplexity.",
    ),
    (
        "Importance",
        "of a channel or head: the root of the summed squares, over samples, of its mean "
        "absolute activation.",
    ),
    (
        "Block Influence",
        "1 − the mean cosine between what enters and what leaves a layer; the layers that "
        "change the stream least are dropped.",
    ),
    ("KL", "how far the student’s next-token distribution is from its teacher’s, in nats a token."),
)
