"""Every field of a training run. This file is itself a card: `--config` may name it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from coderllm_jax.config.schema import Config, Section, option, section
from coderllm_jax.errors import ConfigError

LORA_TARGETS = (
    "query",
    "key",
    "value",
    "attention_output",
    "ffw_gating",
    "ffw_gating_2",
    "ffw_linear",
)


@dataclasses.dataclass(frozen=True)
class ModelSection(Section):
    cache_dir: str = option(
        "~/.cache/coderllm_jax", "Where converted weights are kept (private, 0700)."
    )


@dataclasses.dataclass(frozen=True)
class DataSection(Section):
    path: str = option(
        "",
        "Training rows: a file or folder of JSONL, Parquet or ArrayRecord, or tfds://name. "
        "Empty: what `prepare` wrote into data/training, prepared first if it is not there.",
    )
    format: str = option(
        "auto",
        "Row layout.",
        choices=("auto", "qa", "alpaca", "sharegpt", "messages"),
    )
    evaluation_path: str = option(
        "", "Evaluation items. Empty: data/evaluation beside the default training rows."
    )
    prepare_config: str = option(
        "configs/data.py", "The card that `prepare` runs with when there is no default data yet."
    )
    sequence_length: int = option(
        256, "Positions of one packed row; an example may not be longer.", low=8, high=1_048_576
    )
    on_long_example: str = option(
        "error",
        "An example longer than sequence_length: stop, drop it, or cut its end.",
        choices=("error", "drop", "truncate"),
    )
    on_bad_row: str = option("error", "A row that cannot be read.", choices=("error", "skip"))
    bad_row_limit: int = option(
        100, "With on_bad_row=skip: more bad rows than this end the run.", low=0
    )
    allow_empty: bool = option(False, "Whether an empty answer is a row worth training on.")
    packing: bool = option(True, "Whether several examples share a row.")
    workers: int = option(0, "Grain worker processes; 0 reads in the training process.", low=0)
    prefetch: int = option(4, "Batches prepared ahead of the step.", low=1, high=1024)


@dataclasses.dataclass(frozen=True)
class LoraSection(Section):
    enabled: bool = option(True, "Off: every weight is trained (full fine-tuning).")
    rank: int = option(8, "Width of the adapter's bottleneck.", low=1, high=1024)
    alpha: float = option(
        8.0, "Scale of the adapter's output; alpha / rank multiplies it.", low=1e-6
    )
    dropout: float = option(0.0, "Chance that an adapter's input is dropped.", low=0, high=0.99)
    targets: tuple[str, ...] = option(
        ("query", "value"), "Layers that get an adapter.", choices=LORA_TARGETS
    )
    base: str = option(
        "float",
        "How the blocks' frozen kernels are kept: float (as step.precision says), or quantized "
        "while they are loaded (QLoRA): int8, int4, nf4. What is evaluated, served and exported "
        "later is the adapter on those same rounded kernels.",
        choices=("float", "int8", "int4", "nf4"),
    )
    base_int8: tuple[str, ...] = option(
        (),
        "Kernels that a base of 4 bits (int4, nf4) keeps in 8, such as key,value. Which are worth "
        "it: python -m benchmarks.quantization.",
        choices=LORA_TARGETS,
    )

    base_rounding: str = option(
        "nearest",
        "How a base of 4 bits is rounded: every weight to its nearest level, or calibrated: so "
        "that what the run's first rows give changes as little as can be (GPTQ), once, before "
        "the first step. Kept in the run's folder.",
        choices=("nearest", "calibrated"),
    )
    base_tokens: int = option(
        16_384,
        "With base_rounding=calibrated: positions of packed rows that kernels are rounded on; "
        "their hidden states are held while it lasts.",
        low=1,
    )

    def check(self) -> None:
        if self.enabled and not self.targets:
            raise ConfigError("lora.targets is empty; name a layer or set lora.enabled=False")
        if self.base != "float" and not self.enabled:
            raise ConfigError(
                f"lora.base is {self.base} and lora.enabled is False; weights that are trained "
                "cannot be quantized: set lora.base=float or lora.enabled=True"
            )
        if self.base == "float" and self.base_rounding != "nearest":
            raise ConfigError(
                f"lora.base_rounding is {self.base_rounding} and lora.base is float, which is not "
                "rounded; set lora.base=nf4 (or int4), or leave base_rounding=nearest"
            )


@dataclasses.dataclass(frozen=True)
class OptimizerSection(Section):
    name: str = option("adamw", "Optimizer.", choices=("adamw", "adam", "lion", "adafactor", "sgd"))
    schedule: str = option(
        "cosine", "Learning rate over the run.", choices=("constant", "linear", "cosine", "wsd")
    )
    warmup_fraction: float = option(0.05, "Part of the run spent warming up.", low=0, high=1)
    final_fraction: float = option(
        0.1, "Learning rate at the end, as a part of its peak.", low=0, high=1
    )
    weight_decay: float = option(0.0, "Decoupled weight decay; not with adam and sgd.", low=0)
    b1: float = option(0.9, "First moment's decay.", low=0, high=0.9999999)
    b2: float = option(0.99, "Second moment's decay.", low=0, high=0.9999999)
    eps: float = option(1e-8, "Added to the second moment's root.", low=1e-30)
    clip_norm: float = option(1.0, "Global gradient norm is clipped to this; 0: not.", low=0)
    accumulation_steps: int = option(
        1, "Micro-batches a step; batch_size is the whole step's.", low=1
    )

    def check(self) -> None:
        if self.weight_decay and self.name in ("adam", "sgd"):
            raise ConfigError(
                f"optimizer.weight_decay is {self.weight_decay} and optimizer.name is "
                f"{self.name}, which takes none; "
                "set it to 0 or name adamw, lion or adafactor"
            )


@dataclasses.dataclass(frozen=True)
class StepSection(Section):
    precision: str = option(
        "auto",
        "float32; mixed (bfloat16 weights and matrix operands, float32 sums and activations); "
        "bfloat16 (activations too); float16 (as mixed, with a scaled loss: for GPUs without "
        "bfloat16). auto: mixed on a CPU with bfloat16 instructions, float32 on one without, "
        "bfloat16 on accelerators.",
        choices=("auto", "float32", "mixed", "bfloat16", "float16"),
    )
    remat: str = option(
        "auto",
        "What backward recomputes in each block: nothing, everything, or all but the projections. "
        "auto: projections on a CPU, and on GPUs of one process where they fit; else block.",
        choices=("auto", "none", "block", "projections"),
    )
    attention: str = option(
        "auto",
        "dense; fused (a flash kernel: on one NVIDIA GPU, or on TPUs; dense where it does not "
        "apply). auto: fused on one data-centre GPU of NVIDIA's and on TPUs, where it applies; "
        "else dense.",
        choices=("auto", "dense", "fused"),
    )
    scan_blocks: str = option(
        "auto", "Whether the blocks are one compiled loop body.", choices=("auto", "on", "off")
    )
    loss_tokens_per_chunk: int = option(
        0, "Supervised positions whose logits exist at one time; 0: chosen by device.", low=0
    )


@dataclasses.dataclass(frozen=True)
class MeshSection(Section):
    data: int = option(-1, "Data-parallel devices; -1: all that are left.", low=-1)
    fsdp: int = option(1, "Devices over which weights are sharded by width.", low=1)
    tensor: int = option(1, "Devices over which heads and feed-forward are sharded.", low=1)
    platform: str = option("auto", "Device kind.", choices=("auto", "cpu", "gpu", "tpu"))

    def check(self) -> None:
        if self.data == 0:
            raise ConfigError("mesh.data is 0; expected -1 (all that are left) or at least 1")


@dataclasses.dataclass(frozen=True)
class EvaluationSection(Section):
    every_steps: int = option(20, "Steps between evaluations; 0: at start and end only.", low=0)
    max_items: int = option(48, "Evaluation items of the `unseen` split scored each time.", low=1)
    samples: int = option(3, "Answers generated and shown at each evaluation.", low=0, high=64)
    sample_tokens: int = option(48, "Longest sampled answer, in tokens.", low=1)
    patience: int = option(
        0, "Evaluations in a row without a lower loss that end the run; 0: never.", low=0
    )


@dataclasses.dataclass(frozen=True)
class CheckpointSection(Section):
    every_steps: int = option(20, "Steps between checkpoints; 0: at the end only.", low=0)
    keep_latest: int = option(2, "Newest checkpoints kept.", low=1)
    keep_best: int = option(1, "Checkpoints with the lowest evaluation loss kept.", low=1)
    grace_period_s: float = option(
        25.0,
        "Seconds from SIGTERM to the end of the process, saved or not; schedulers kill after 30.",
        low=1,
    )


@dataclasses.dataclass(frozen=True)
class SafetySection(Section):
    skip_spikes: float = option(
        6.0,
        "Standard deviations above the last 64 steps' mean from which a loss or gradient norm is a "
        "spike, whose batch is skipped; 0: only what is not finite is skipped.",
        low=0,
    )
    max_skipped: int = option(
        10, "More skipped batches than this among the last 100 end the run.", low=0
    )
    hang_timeout_s: float = option(
        900.0,
        "Seconds without progress after which the process dumps its stacks and ends with 42; "
        "0: never. Longer than compilation takes.",
        low=0,
    )


@dataclasses.dataclass(frozen=True)
class DistributedSection(Section):
    enabled: str = option(
        "auto",
        "Whether this is one process of several. auto: where Cloud TPU, Slurm, Open MPI, "
        "Kubernetes or JAX_COORDINATOR_ADDRESS says so, or coordinator is set.",
        choices=("auto", "on", "off"),
    )
    coordinator: str = option("", "HOST:PORT of process 0; empty: as JAX detects it.")
    num_processes: int = option(0, "Processes of the run; 0: as JAX detects them.", low=0)
    process_id: int = option(-1, "This process's number; -1: as JAX detects it.", low=-1)
    timeout_s: float = option(
        300.0, "Seconds to wait for all processes at the start.", low=1, high=86_400
    )

    def means_several(self, environment: Mapping[str, str]) -> bool:
        """Whether this section, and what a launcher has set, say that there are other processes.

        The names are those that JAX's own detection reads. A Slurm job of one task is one process,
        and so is a shell in an allocation of several: only srun numbers its tasks.
        """
        if self.enabled != "auto":
            return self.enabled == "on"
        if self.coordinator or self.num_processes > 1:
            return True
        if any(map(environment.get, ("JAX_COORDINATOR_ADDRESS", "MEGASCALE_COORDINATOR_ADDRESS"))):
            return True
        counts = [environment.get("OMPI_COMM_WORLD_SIZE", "")]
        if "SLURM_STEP_NODELIST" in environment:
            counts.append(environment.get("SLURM_NTASKS", ""))
        if any(count.isdecimal() and int(count) > 1 for count in counts):
            return True
        workers = map(environment.get, ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"))
        if any("," in (names or "") for names in workers):
            return True
        return "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment

    def check(self) -> None:
        given = bool(self.coordinator), self.num_processes > 0, self.process_id >= 0
        if any(given) and self.enabled == "off":
            raise ConfigError(
                "distributed.enabled is off and distributed.coordinator, num_processes or "
                "process_id is set; leave them out or set distributed.enabled=on"
            )
        if self.num_processes and self.process_id >= self.num_processes:
            raise ConfigError(
                f"distributed.process_id is {self.process_id} of {self.num_processes} processes; "
                f"expected 0 to {self.num_processes - 1}"
            )
        port = self.coordinator.rpartition(":")[2]
        if self.coordinator and not (":" in self.coordinator and port.isdecimal()):
            raise ConfigError(
                f"distributed.coordinator is {self.coordinator!r}; expected HOST:PORT"
            )


@dataclasses.dataclass(frozen=True)
class LoggingSection(Section):
    every_steps: int = option(1, "Steps between rows of metrics.jsonl.", low=1)
    progress: bool = option(True, "Whether a progress bar is shown.")
    clu: bool = option(True, "Whether CLU (TensorBoard) summaries are written.")


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Config):
    """A training run. `create_default()` to edit, `train_model(config)` to run."""

    title: ClassVar[str] = "Fine-tunes Gemma on your questions and answers."

    model_name: str = option(
        "gemma3_270m",
        "gemma3_270m, a KerasHub Gemma preset, hf://org/name, a local Hugging Face or Keras "
        "folder, gguf:FILE, or tiny (random weights, for tests).",
    )
    learning_rate: float = option(1e-3, "Peak learning rate.", low=1e-12)
    batch_size: int = option(4, "Packed rows of one optimizer step, over all devices.", low=1)
    epochs: int = option(0, "Passes over the training rows; 0: two, unless steps is set.", low=0)
    steps: int = option(0, "Optimizer steps; 0: by epochs. Setting both is an error.", low=0)
    seed: int = option(0, "Seeds order, dropout and initialization.", low=0, high=2**31 - 1)
    workdir: str = option("runs/lora", "The run's folder.")

    model: ModelSection = section(ModelSection)
    data: DataSection = section(DataSection)
    lora: LoraSection = section(LoraSection)
    optimizer: OptimizerSection = section(OptimizerSection)
    step: StepSection = section(StepSection)
    mesh: MeshSection = section(MeshSection)
    evaluation: EvaluationSection = section(EvaluationSection)
    checkpoint: CheckpointSection = section(CheckpointSection)
    safety: SafetySection = section(SafetySection)
    distributed: DistributedSection = section(DistributedSection)
    logging: LoggingSection = section(LoggingSection)

    @property
    def num_epochs(self) -> int:
        """Passes to make where `steps` does not say; 2 unless asked otherwise."""
        return self.epochs or 2

    def check(self) -> None:
        if self.steps and self.epochs:
            raise ConfigError(
                f"steps is {self.steps} and epochs is {self.epochs}; set one of them to 0"
            )
        if self.batch_size % self.optimizer.accumulation_steps:
            raise ConfigError(
                f"batch_size is {self.batch_size}, not a multiple of "
                f"optimizer.accumulation_steps={self.optimizer.accumulation_steps}; change one"
            )
        if self.lora.base != "float" and self.step.scan_blocks == "off":
            raise ConfigError(
                f"lora.base is {self.lora.base} and step.scan_blocks is off; unrolled blocks may "
                "make every kernel whole at once: set step.scan_blocks=on or lora.base=float"
            )
        if not self.workdir:
            raise ConfigError("workdir is empty; name the run's folder")


get_config = TrainingConfig.create_default
