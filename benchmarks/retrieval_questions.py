"""Questions for `benchmarks.retrieval` that name no symbol, and some that no passage answers.

Those of the default items name their symbol or quote its documentation, which favours word search;
people often know neither. `PARAPHRASES` ask for something in optax in other words, beside the
symbols of which any one is right. Of `OFF_TOPIC` optax knows nothing. All are written by hand, and
before any search had been tried on them.
"""

from __future__ import annotations

PARAPHRASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "How can I keep exploding gradients in check by limiting their overall length?",
        ("optax.clip_by_global_norm",),
    ),
    (
        "Limit every single entry of the update to a small interval around zero.",
        ("optax.clip",),
    ),
    (
        "I have too little memory for a big batch. How do I add up several mini-batches before "
        "one real step?",
        ("optax.MultiSteps", "optax.apply_every", "optax.MultiSteps.update"),
    ),
    (
        "How do I run two optimizer pieces one after the other?",
        ("optax.chain", "optax.transforms.named_chain"),
    ),
    (
        "My training sometimes gets infinities. What ignores such steps instead of crashing?",
        ("optax.apply_if_finite", "optax.skip_not_finite"),
    ),
    (
        "Which step size plan rises first and then falls like half a cosine wave?",
        ("optax.warmup_cosine_decay_schedule",),
    ),
    ("Step size that never changes during training", ("optax.constant_schedule",)),
    (
        "Lower the learning rate when the validation metric has stopped getting better",
        ("optax.contrib.reduce_on_plateau",),
    ),
    (
        "Glue several learning rate curves together at given steps",
        ("optax.join_schedules",),
    ),
    (
        "Train without leaking individual training examples, with noise added to clipped "
        "per-example gradients",
        ("optax.contrib.dpsgd", "optax.contrib.differentially_private_aggregate"),
    ),
    (
        "A loss that is squared near the target but grows linearly for outliers",
        ("optax.huber_loss",),
    ),
    (
        "Classification loss where classes are given as numbers and not as one-hot rows",
        ("optax.softmax_cross_entropy_with_integer_labels",),
    ),
    ("Loss for yes-or-no labels computed from raw scores", ("optax.sigmoid_binary_cross_entropy",)),
    (
        "Speech recognition loss without an alignment between frames and letters",
        ("optax.ctc_loss", "optax.ctc_loss_with_forward_probs"),
    ),
    (
        "How different are two probability distributions, asymmetrically?",
        (
            "optax.kl_divergence",
            "optax.generalized_kl_divergence",
            "optax.losses.kl_divergence_with_log_targets",
        ),
    ),
    (
        "Make hard one-hot targets a little softer",
        ("optax.smooth_labels",),
    ),
    (
        "Assign workers to jobs at the least total price",
        ("optax.assignment.hungarian_algorithm", "optax.assignment.base_hungarian_algorithm"),
    ),
    (
        "Second-order method that keeps a short history instead of the whole curvature matrix",
        ("optax.lbfgs", "optax.scale_by_lbfgs"),
    ),
    (
        "Optimizer that looks for flat minima by perturbing the weights first",
        ("optax.contrib.sam",),
    ),
    (
        "Which optimizers need no step size to be chosen by me?",
        (
            "optax.contrib.prodigy",
            "optax.contrib.dadapt_adamw",
            "optax.contrib.dog",
            "optax.contrib.dowg",
            "optax.contrib.mechanize",
            "optax.contrib.cocob",
        ),
    ),
    (
        "Orthogonalize the momentum of weight matrices",
        ("optax.contrib.muon", "optax.contrib.scale_by_muon"),
    ),
    (
        "Save optimizer memory by projecting gradients into a small subspace",
        ("optax.contrib.galore", "optax.contrib.scale_by_galore"),
    ),
    (
        "Keep only the sign of each gradient entry",
        ("optax.sign_sgd", "optax.signum", "optax.scale_by_sign"),
    ),
    (
        "Adam, but weights are pulled towards zero separately from the gradient",
        ("optax.adamw", "optax.add_decayed_weights"),
    ),
    (
        "Train only some of the layers and leave the others as they are",
        (
            "optax.transforms.freeze",
            "optax.transforms.selective_transform",
            "optax.masked",
            "optax.set_to_zero",
        ),
    ),
    (
        "Replace not-a-number values in gradients by nothing",
        ("optax.zero_nans",),
    ),
    (
        "Product of the second derivative matrix with a given direction",
        ("optax.second_order.hvp",),
    ),
    ("Element-wise product of two nested structures of arrays", ("optax.tree_utils.tree_mul",)),
    (
        "How long is a whole nested structure of arrays, as one vector?",
        ("optax.global_norm", "optax.tree_utils.tree_norm"),
    ),
    (
        "Convert all leaves of a nested structure to half precision",
        ("optax.tree_utils.tree_cast", "optax.tree_utils.tree_cast_like"),
    ),
    (
        "A nested structure of Gaussian samples with the same shapes as my parameters",
        ("optax.tree_utils.tree_random_like",),
    ),
    (
        "Change the learning rate by hand while training is running",
        (
            "optax.inject_hyperparams",
            "optax.schedules.inject_stateful_hyperparams",
        ),
    ),
    (
        "Running average of the weights themselves",
        ("optax.incremental_update", "optax.ema"),
    ),
    (
        "Subtract the average from each gradient before it is used",
        ("optax.centralize",),
    ),
    (
        "Large-batch training with a step size per layer",
        ("optax.lars", "optax.lamb", "optax.scale_by_trust_ratio"),
    ),
    ("Force parameters to stay at or above zero", ("optax.keep_params_nonnegative",)),
    (
        "Actually change the weights once the optimizer has told me the deltas",
        ("optax.apply_updates",),
    ),
    ("Loss of a margin classifier such as an SVM", ("optax.hinge_loss",)),
    (
        "Complex-valued parameters treated as pairs of real numbers",
        ("optax.contrib.split_real_and_imaginary",),
    ),
    (
        "Overlap measure for segmentation masks as a training objective",
        ("optax.losses.dice_loss", "optax.losses.multiclass_generalized_dice_loss"),
    ),
)

OFF_TOPIC: tuple[str, ...] = (
    "How long should I boil an egg?",
    "Who wrote Don Quixote?",
    "What is the capital of Mongolia?",
    "How do I center a div with CSS?",
    "Which index should I add to speed up this SQL join?",
    "How do I resolve a merge conflict in git?",
    "What does HTTP status 418 mean?",
    "How do I mount a volume in a Docker container?",
    "Explain the borrow checker of Rust.",
    "How do I read a CSV file with pandas?",
    "What is the difference between TCP and UDP?",
    "How do I write a decorator in Python?",
    "Recommend a novel for a long flight.",
    "How can I fix a leaking tap?",
    "What is the boiling point of nitrogen?",
    "How do I parse JSON in Go?",
    "Write a haiku about autumn.",
    "How do I undo the last commit?",
    "What are the symptoms of the flu?",
    "How do I set up a virtual environment?",
    "When did the Berlin Wall fall?",
    "Translate good morning into Japanese.",
    "How do I create a Kubernetes deployment?",
    "What is the plural of octopus?",
)
